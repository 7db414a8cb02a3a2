"""Drop what must not be learned or measured: empty texts, values outside the classes, duplicates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.errors import AttarError
from attar.seeds import content_key
from attar.sources.labels import OTHER
from attar.sources.raw import Raw


@dataclass(frozen=True)
class Gold:
    """Hold what is known of each row: its class, or the text it asks for.

    Args:
        labels: ``(rows,)`` int64 places of classes, `UNKNOWN` or `OTHER`; all `UNKNOWN` where there are targets.
        targets: clean target texts, "" where there is none; None for a task with labels.
        cut: for each target whether it was cut; empty where there are no targets.
    """

    labels: np.ndarray
    targets: Sequence[str] | None = None
    cut: Sequence[bool] = ()

    def answers(self) -> list[Any]:
        """Return what two rows of the same content are compared by."""
        return self.labels.tolist() if self.targets is None else list(self.targets)


@dataclass(frozen=True)
class Cleaned:
    """Hold examples without duplicates, and what was dropped on the way.

    Args:
        examples: one for each content, the first of its kind.
        dropped: reason -> rows.
        conflicts: duplicates whose label or target differs from that of the example kept.
        shortened: texts that were cut.
        shortened_targets: target texts that were cut.
    """

    examples: Examples
    dropped: dict[str, int]
    conflicts: int
    shortened: int
    shortened_targets: int = 0


def image_key(image: np.ndarray) -> int:
    """Return the content key of an image: of its shape and its bytes."""
    return content_key(f"{image.shape}".encode("ascii") + image.tobytes())


def text_key(text: str) -> int:
    """Return the content key of a text, without the white space around it.

    Example:
        >>> text_key(" good ") == text_key("good")
        True
    """
    return content_key(text.strip().encode("utf-8"))


def gold_targets(raw: Raw, max_characters: int | None) -> Gold:
    """Return the target texts of a source, clean and cut.

    Args:
        raw: the source's examples, their values the target texts; a source without values has empty targets.
        max_characters: cut targets to this many characters.

    Raises:
        AttarError: the target of a row is a list or an object.

    Example:
        >>> gold_targets(Raw(["a", "b"], [" red hat ", None], "column 'title'"), 4).targets
        ['red', '']
    """
    count = len(raw.inputs)
    found = [
        _cut(_text(value, row, "target"), max_characters) for row, value in enumerate(raw.values or [""] * count, 1)
    ]
    return Gold(np.full(count, UNKNOWN, np.int64), [text for text, _ in found], [cut for _, cut in found])


def clean(raw: Raw, gold: Gold, max_characters: int | None, keep_unknown: bool) -> Cleaned:
    """Return the usable examples of a source.

    Args:
        raw: the source's examples.
        gold: the label or target of each row.
        max_characters: cut texts to this many characters.
        keep_unknown: keep rows without a label or target.

    Raises:
        AttarError: the text of a row is a list or an object.
    """
    dropped: Counter[str] = Counter(empty=0, no_label=0, other_label=0, duplicate=0)
    answers = gold.answers()
    kept: dict[int, int] = {}  # key -> row
    texts: dict[int, str] = {}
    conflicts = shortened = 0
    for row, (content, cut, key) in enumerate(_contents(raw, max_characters)):
        answer = answers[row]
        if key is None:
            dropped["empty"] += 1
        elif answer == OTHER:
            dropped["other_label"] += 1
        elif answer in (UNKNOWN, "") and not keep_unknown:
            dropped["no_label"] += 1
        elif key in kept:
            dropped["duplicate"] += 1
            conflicts += answer != answers[kept[key]]
        else:
            kept[key] = row
            shortened += cut
            if content is not None:
                texts[row] = content
    rows = list(kept.values())
    inputs = raw.inputs[rows] if isinstance(raw.inputs, np.ndarray) else [texts[row] for row in rows]
    targets = None if gold.targets is None else [gold.targets[row] for row in rows]
    found = Examples(np.array(list(kept), np.int64), inputs, gold.labels[rows], targets)
    cut_targets = sum(gold.cut[row] for row in rows) if gold.cut else 0
    return Cleaned(found, dict(dropped), int(conflicts), int(shortened), cut_targets)


def _contents(raw: Raw, max_characters: int | None) -> Iterator[tuple[str | None, bool, int | None]]:
    """Yield for each row its text, whether that was cut, and its key; the key is None for an empty text."""
    if isinstance(raw.inputs, np.ndarray):
        for image in raw.inputs:
            yield None, False, image_key(image)
        return
    for row, value in enumerate(raw.inputs, 1):
        text, cut = _cut(_text(value, row, "text"), max_characters)
        yield text, cut, text_key(text) if text else None


def _cut(text: str, max_characters: int | None) -> tuple[str, bool]:
    return text[:max_characters].strip(), max_characters is not None and len(text) > max_characters


def _text(value: Any, row: int, what: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict | bytes):
        raise AttarError(f"the {what} of row {row} is a {type(value).__name__}. Name a column that holds plain texts.")
    # half of a surrogate pair, which JSON can spell, is no character: no tokenizer or file takes it
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def without(examples: Examples, other: Examples) -> tuple[Examples, int, int]:
    """Return the examples that ``other`` has not, how many it has, and how many of those with another answer."""
    theirs = _by_key(other)
    shared = np.array([key in theirs for key in examples.keys.tolist()], dtype=bool)
    ours = _by_key(examples.take(np.flatnonzero(shared)))
    conflicts = sum(theirs[key] != answer for key, answer in ours.items())
    return examples.take(np.flatnonzero(~shared)), int(shared.sum()), conflicts


def _by_key(examples: Examples) -> dict[int, Any]:
    answers = Gold(examples.labels, examples.targets).answers()
    return dict(zip(examples.keys.tolist(), answers, strict=True))
