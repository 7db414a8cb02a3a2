"""Drop what must not be learned or measured: empty texts, values outside the classes, duplicates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.errors import AttarError
from attar.seeds import content_key
from attar.sources.labels import OTHER
from attar.sources.raw import Raw


@dataclass(frozen=True)
class Cleaned:
    """Hold examples without duplicates, and what was dropped on the way.

    Args:
        examples: one for each content, the first of its kind.
        dropped: reason -> rows.
        conflicts: duplicates whose label differs from that of the example kept.
        shortened: texts that were cut.
    """

    examples: Examples
    dropped: dict[str, int]
    conflicts: int
    shortened: int


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


def clean(raw: Raw, labels: np.ndarray, max_characters: int | None, keep_unknown: bool) -> Cleaned:
    """Return the usable examples of a source.

    Args:
        raw: the source's examples.
        labels: ``(rows,)`` places of classes, `UNKNOWN` or `OTHER`.
        max_characters: cut texts to this many characters.
        keep_unknown: keep rows without a label.

    Raises:
        AttarError: the text of a row is a list or an object.
    """
    dropped: Counter[str] = Counter(empty=0, no_label=0, other_label=0, duplicate=0)
    kept: dict[int, tuple[int, int]] = {}  # key -> (row, label)
    texts: dict[int, str] = {}
    conflicts = shortened = 0
    for row, (content, cut, key) in enumerate(_contents(raw, max_characters)):
        label = int(labels[row])
        if key is None:
            dropped["empty"] += 1
        elif label == OTHER:
            dropped["other_label"] += 1
        elif label == UNKNOWN and not keep_unknown:
            dropped["no_label"] += 1
        elif key in kept:
            dropped["duplicate"] += 1
            conflicts += label != kept[key][1]
        else:
            kept[key] = (row, label)
            shortened += cut
            if content is not None:
                texts[row] = content
    rows = [row for row, _ in kept.values()]
    inputs = raw.inputs[rows] if isinstance(raw.inputs, np.ndarray) else [texts[row] for row in rows]
    found = Examples(np.array(list(kept), np.int64), inputs, np.array([v for _, v in kept.values()], np.int64))
    return Cleaned(found, dict(dropped), int(conflicts), int(shortened))


def _contents(raw: Raw, max_characters: int | None) -> Iterator[tuple[str | None, bool, int | None]]:
    """Yield for each row its text, whether that was cut, and its key; the key is None for an empty text."""
    if isinstance(raw.inputs, np.ndarray):
        for image in raw.inputs:
            yield None, False, image_key(image)
        return
    for row, value in enumerate(raw.inputs, 1):
        text = _text(value, row)
        cut = max_characters is not None and len(text) > max_characters
        text = text[:max_characters].strip()
        yield text, cut, text_key(text) if text else None


def _text(value: Any, row: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict | bytes):
        raise AttarError(f"the text of row {row} is a {type(value).__name__}. Name a column that holds plain texts.")
    # half of a surrogate pair, which JSON can spell, is no character: no tokenizer or file takes it
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def without(examples: Examples, other: Examples) -> tuple[Examples, int, int]:
    """Return the examples that ``other`` has not, how many it has, and how many of those with another label."""
    theirs = dict(zip(other.keys.tolist(), other.labels.tolist(), strict=True))
    shared = np.array([key in theirs for key in examples.keys.tolist()], dtype=bool)
    pairs = zip(examples.keys[shared].tolist(), examples.labels[shared].tolist(), strict=True)
    conflicts = sum(theirs[key] != label for key, label in pairs)
    return examples.take(np.flatnonzero(~shared)), int(shared.sum()), conflicts
