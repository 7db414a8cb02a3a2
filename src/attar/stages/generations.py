"""Let a teacher write the texts that a student learns from: sequence-level distillation; a kill costs one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from attar.core.examples import Examples
from attar.core.nouns import Model, Task
from attar.errors import AttarError
from attar.log import progress
from attar.meters.text import rouge_l
from attar.optional import lazy
from attar.seeds import derive
from attar.store.files import write_bytes
from attar.tasks.text_generation import TextGeneration
from attar.tasks.writing import WritingSettings, write
from attar.teachers.language_model import LanguageModelTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SHARD = 64
"""Examples a file holds: what a kill can cost."""
OF = {"beams": "beam", "samples": "sample", "keep": "sample", "temperature": "sample", "top_p": "sample"}
"""Keys that go with one way of writing."""


class TextSettings(WritingSettings):
    """Set which texts a student that writes learns from.

    Example:
        >>> TextSettings.model_validate("teacher").use
        'teacher'
    """

    use: Literal["gold", "teacher"] = Field("gold", description="the data's target texts, or what the teacher writes")
    keep: int = Field(1, ge=1, le=64, description="of the samples of an example, the best that differ (sample)")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keys_fit(self) -> TextSettings:
        for name, how in OF.items():  # a run's own recipe.yaml spells the defaults out
            if self.how != how and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for how: {how}, got how: {self.how}. Leave it out")
        if self.keep > self.samples:
            raise ValueError(f"keep must be <= samples ({self.samples}), got {self.keep}")
        return self


def generations(
    model: Model, examples: Examples, settings: TextSettings, seed: int, work: Path
) -> tuple[Examples, dict[str, Any]]:
    """Return the examples with what the model writes for them as their targets, and facts about these texts.

    Of the samples of one example, those that say something new are ranked: by ROUGE-L against the examples' targets
    where all have one, else by the mean log-probability that the model gives a token of the text. The best are kept:
    the first under the example's own key, each other one under a key derived from it. An example for which nothing
    was written is left out.

    Args:
        model: a causal language model with a prompt in its facts.
        examples: their inputs are written for; their targets, where they may be used, judge the samples.
        settings: see `TextSettings`.
        seed: of the sampling.
        work: folder of finished files; a continued call writes nothing again.

    Returns:
        The examples, in the order of those given, and ``texts``, ``examples``, ``mean_tokens``, ``distinct`` (share),
        ``rejected`` (texts written and not kept), ``left_out`` (examples without a text), and ``score``: what ranked
        the samples, its mean over those kept and over all; None where there was one text an example.

    Raises:
        AttarError: the model wrote nothing for any example.

    Reference:
        Kim and Rush, "Sequence-Level Knowledge Distillation", 2016, sections 3.2 and 3.3.
    """
    lengths = np.array([len(str(text)) for text in examples.inputs])
    order = np.argsort(lengths, kind="stable")  # texts of like length stand in one file, with little padding
    found: dict[int, _Kept] = {}
    with progress("writing the texts to learn from", len(examples)) as bar:
        for number, first in enumerate(range(0, len(order), SHARD)):
            places = order[first : first + SHARD]
            path, part = work / f"texts-{number:06d}.jsonl", examples.take(places)
            if not path.exists():
                _save(path, part.keys, _chosen(model, part, settings, derive(seed, "texts", number)))
            found |= dict(zip(places.tolist(), _load(path, part.keys), strict=True))
            bar.advance(len(places))
    kept = [found[place] for place in range(len(examples))]
    written = _taught(examples, kept)
    if not len(written):
        raise AttarError("The teacher wrote nothing for any example. Look at its prompt, or train it on gold texts.")
    return written, {**_facts(model, settings, written, kept), "score": _score(examples, kept)}


@dataclass(frozen=True)
class _Kept:
    """Hold what is left of the texts of one example, best first.

    Args:
        texts: kept; none is empty.
        scores: of the texts kept; empty where nothing was ranked.
        mean: of the scores of all texts that were ranked; None where nothing was.
        written: how many texts the model wrote.
    """

    texts: list[str]
    scores: list[float]
    mean: float | None
    written: int


def _chosen(model: Model, examples: Examples, settings: TextSettings, seed: int) -> list[_Kept]:
    """Write for a few examples, and choose."""
    texts = write(model, [str(text) for text in examples.inputs], settings, seed)
    new = [list(dict.fromkeys(text for text in some if text)) for some in texts]
    if settings.samples == 1:
        return [_Kept(some, [], None, 1) for some in new]
    owners = np.repeat(np.arange(len(new)), [len(some) for some in new])
    flat = [text for some in new for text in some]
    if ranked_by(examples) == "rouge_l":
        gold = list(examples.targets or ())
        scores = np.array([rouge_l(text, gold[owner]) for text, owner in zip(flat, owners, strict=True)])
    else:
        spread = examples.take(owners).with_targets(flat, np.arange(len(flat)))
        scores = mean_log_p(model, TextGeneration(), spread)
    parts = np.split(scores, np.cumsum([len(some) for some in new])[:-1])
    return [_best(some, own.tolist(), settings) for some, own in zip(new, parts, strict=True)]


def _best(texts: Sequence[str], scores: Sequence[float], settings: TextSettings) -> _Kept:
    order = sorted(range(len(texts)), key=lambda place: -scores[place])[: settings.keep]
    mean = float(np.mean(scores)) if texts else None
    return _Kept([texts[i] for i in order], [scores[i] for i in order], mean, settings.samples)


def ranked_by(examples: Examples) -> Literal["rouge_l", "log_p"]:
    """Return what ranks the samples of these examples: their targets if all have one, else the writer itself."""
    return "rouge_l" if examples.targets is not None and all(examples.targets) else "log_p"


def mean_log_p(model: Model, task: Task, examples: Examples) -> np.ndarray:
    """Return the mean log-probability, in nats, that a language model gives a token of each target ``(examples,)``.

    Args:
        model: a causal language model.
        task: turns examples into rows.
        examples: each has a target, and a key of its own.
    """
    summed, tokens = LanguageModelTeacher(model, task, "").likelihood(examples)
    return np.asarray(-summed / np.maximum(tokens, 1.0))


def _taught(examples: Examples, kept: Sequence[_Kept]) -> Examples:
    """Return one example a text kept, in the order of the examples."""
    places = np.repeat(np.arange(len(examples)), [len(one.texts) for one in kept])
    keys = [
        int(key) if rank == 0 else derive(int(key), "text", rank)
        for key, one in zip(examples.keys, kept, strict=True)
        for rank in range(len(one.texts))
    ]
    return examples.take(places).with_targets([text for one in kept for text in one.texts], np.array(keys, np.int64))


def _facts(model: Model, settings: TextSettings, written: Examples, kept: Sequence[_Kept]) -> dict[str, Any]:
    texts = list(written.targets or ())
    tokens = [len(model.processor(text, add_special_tokens=False).input_ids) for text in texts]
    return {
        "how": settings.how,
        "texts": len(texts),
        "examples": len(kept),
        "mean_tokens": round(float(np.mean(tokens)), 2),
        "distinct": round(len(set(texts)) / len(texts), 4),
        "rejected": sum(one.written for one in kept) - len(texts),
        "left_out": sum(not one.texts for one in kept),
    }


def _score(examples: Examples, kept: Sequence[_Kept]) -> dict[str, Any] | None:
    ranked = [one for one in kept if one.scores]
    if not ranked:
        return None
    best = float(np.mean([np.mean(one.scores) for one in ranked]))
    whole = float(np.mean([one.mean for one in ranked if one.mean is not None]))
    return {"name": ranked_by(examples), "kept": round(best, 4), "all": round(whole, 4)}


def _save(path: Path, keys: np.ndarray, kept: Sequence[_Kept]) -> None:
    lines = [
        json.dumps({"key": int(key), **asdict(one)}, ensure_ascii=False) for key, one in zip(keys, kept, strict=True)
    ]
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def _load(path: Path, keys: np.ndarray) -> list[_Kept]:
    """Return what a file holds for these examples, in order.

    Raises:
        AttarError: it is damaged, or holds other examples.
    """
    try:
        # not splitlines, which also splits at U+2028 and the like within a text
        lines: list[Mapping[str, Any]] = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        if [line["key"] for line in lines] != keys.tolist():
            raise ValueError("it holds other examples")
        return [_Kept(**{name: line[name] for name in ("texts", "scores", "mean", "written")}) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttarError(f"{path} cannot be read: {error}. Remove it and run again.") from error
