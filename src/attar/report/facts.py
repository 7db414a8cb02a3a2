"""Read `summary.json` with care: any part may be absent, and what is absent is None, never a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.report.formats import interval_text

ORDER = ("teacher", "assistant", "control", "student", "compressed", "exported", "dense")
"""The models of a run, from the first to the one that is handed over, and the dense ones that stand beside it."""

COLORS = {
    "teacher": "#6741b3",
    "assistant": "#9a3f8f",
    "assistant_2": "#b3304f",
    "assistant_3": "#7a4a1e",
    "control": "#6f7780",
    "student": "#1f6fc4",
    "compressed": "#b8630b",
    "exported": "#13795b",
    "dense": "#5c6b00",
    "dense_2": "#00708a",
}
"""One color for each model, the same in every plot and table; each reads on white."""

SYMBOLS = {
    "teacher": "square",
    "assistant": "pentagon",
    "assistant_2": "hexagon",
    "assistant_3": "octagon",
    "control": "triangle-up",
    "student": "circle",
    "compressed": "diamond",
    "exported": "star",
    "dense": "cross",
    "dense_2": "x",
}
"""One plotly symbol for each model, for eyes that tell colors apart badly."""


def color(name: str) -> str:
    """Return the color of a model.

    Example:
        >>> color("teacher"), color("another")
        ('#6741b3', '#8a3a5c')
    """
    return COLORS.get(name, "#8a3a5c")


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else.

    Example:
        >>> number(3), number("3"), number(True), number(float("nan"))
        (3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def text(value: Any) -> str:
    """Return a value as text; nothing is the empty text."""
    return "" if value is None else str(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping, empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Return a list, empty for anything that is not a sequence; text is not one."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list."""
    return [item for item in items(value) if isinstance(item, Mapping)]


@dataclass(frozen=True)
class Estimate:
    """Hold a measured quality with its interval.

    Args:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        n: how many examples it stands on.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: float | None = None

    def show(self, metric: str = "") -> str:
        """Return the estimate for people, for example ``"86.8 % [84.6, 88.8]"``."""
        return interval_text(self.value, self.low, self.high, metric)


def estimate(value: Any) -> Estimate:
    """Return an estimate from a mapping or a plain number.

    Example:
        >>> estimate({"value": 0.5, "low": 0.4}).low, estimate(0.5).value
        (0.4, 0.5)
    """
    if not isinstance(value, Mapping):
        return Estimate(number(value))
    return Estimate(*(number(value.get(key)) for key in ("value", "low", "high", "n")))


@dataclass(frozen=True)
class ModelFacts:
    """Hold what a summary says of one model.

    Args:
        name: teacher, assistant, control, student, compressed, exported or dense.
        title: what it is, for people.
        quality: its metric on the test examples.
        numbers: ece, agreement, parameters, flops, bytes, peak_rss_bytes, p50 and p90 (ms), tokens_per_second, and
            gold_tokens (what its perplexity is over); None where unknown.
        latency: the conditions that p50 and p90 were measured under.
        precision: the type it computes in.
        runtime: the library that ran it.
        confusion: counts, row = true class, column = predicted class.
        perplexity: of the gold texts, where it writes.
        exact_match: share of test examples for which it writes the gold text.
        beaten_by: the models that the summary itself says dominate this one; None where it does not say.
    """

    name: str
    title: str = ""
    quality: Estimate = field(default_factory=Estimate)
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    runtime: str = ""
    confusion: tuple[tuple[float, ...], ...] = ()
    perplexity: Estimate = field(default_factory=Estimate)
    exact_match: Estimate = field(default_factory=Estimate)
    beaten_by: tuple[str, ...] | None = None

    def get(self, key: str) -> float | None:
        """Return one of `numbers`, None where unknown."""
        return self.numbers.get(key)


def _confusion(value: Any) -> tuple[tuple[float, ...], ...]:
    rows = [[number(cell) for cell in items(row)] for row in items(value)]
    if not rows or any(len(row) != len(rows) or None in row for row in rows):
        return ()
    return tuple(tuple(cell for cell in row if cell is not None) for row in rows)


def _model(entry: Mapping[str, Any]) -> ModelFacts:
    latency = mapping(entry.get("latency_ms"))
    keys = ("ece", "agreement", "parameters", "flops", "bytes", "peak_rss_bytes", "tokens_per_second")
    numbers = {key: number(entry.get(key)) for key in keys}
    numbers |= {"p50": number(latency.get("p50")), "p90": number(latency.get("p90"))}
    numbers["gold_tokens"] = number(mapping(entry.get("perplexity")).get("tokens"))
    return ModelFacts(
        name=text(entry.get("name")),
        title=text(entry.get("title")),
        quality=estimate(entry.get("quality")),
        numbers=numbers,
        latency={key: value for key, value in latency.items() if key not in ("p10", "p50", "p90", "n")},
        precision=text(entry.get("precision")),
        runtime=text(entry.get("runtime")),
        confusion=_confusion(entry.get("confusion")),
        perplexity=estimate(entry.get("perplexity")),
        exact_match=estimate(entry.get("exact_match")),
        beaten_by=tuple(map(text, items(entry["dominated_by"]))) if "dominated_by" in entry else None,
    )


def models(summary: Mapping[str, Any]) -> list[ModelFacts]:
    """Return a summary's models, from the teacher to the exported one; others follow in their order."""
    found = [_model(entry) for entry in mappings(summary.get("models"))]
    return sorted(found, key=lambda model: rank(model.name))


def writes(summary: Mapping[str, Any]) -> bool:
    """Tell whether the models of a run write texts: whether any was measured as such.

    Example:
        >>> writes({"models": [{"name": "student", "perplexity": {"value": 31.0}}]}), writes({})
        (True, False)
    """
    return any(
        model.perplexity.value is not None or model.get("tokens_per_second") is not None for model in models(summary)
    )


def rank(name: str) -> int:
    """Return a model's place; ``assistant_2`` stands where assistants stand."""
    kind = name.rstrip("0123456789").removesuffix("_")
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def model_named(summary: Mapping[str, Any], name: str) -> ModelFacts | None:
    """Return the model of this name, if the summary has it."""
    return next((model for model in models(summary) if model.name == name), None)


def final_model(summary: Mapping[str, Any]) -> ModelFacts | None:
    """Return the model that is handed over: exported, else compressed, else student."""
    known = {model.name: model for model in models(summary)}
    return next((known[name] for name in ("exported", "compressed", "student") if name in known), None)


def metric_name(summary: Mapping[str, Any]) -> str:
    """Return the name of a summary's metric, empty if unknown."""
    return text(mapping(summary.get("metric")).get("name"))


def higher_is_better(summary: Mapping[str, Any]) -> bool:
    """Tell whether more of the metric is better; so unless the summary says otherwise."""
    return mapping(summary.get("metric")).get("higher_is_better") is not False


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a quotient, or None where a part is unknown or the divisor is 0.

    Example:
        >>> ratio(6, 3), ratio(1, 0), ratio(None, 2)
        (2.0, None, None)
    """
    return above / below if above is not None and below else None


def speedup(model: ModelFacts, base: ModelFacts | None) -> float | None:
    """Return how many times faster than ``base`` a model of the same run answers.

    Both must have been timed with the same batch, threads and device. The length may differ: a prompt is part of
    what its model has to read.

    Returns:
        The ratio of the medians, or None where one is unknown or the conditions differ.
    """
    if base is None or any(model.latency.get(key) != base.latency.get(key) for key in ("batch", "threads", "device")):
        return None
    return ratio(base.get("p50"), model.get("p50"))


def _beats(other: tuple[float | None, ...], point: tuple[float | None, ...]) -> bool:
    if other == point:
        return False
    pairs = list(zip(other, point, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):  # a value that is unknown is neither better nor worse
        return False
    return all(a is None or b is None or a <= b for a, b in pairs)


def dominated(found: Sequence[ModelFacts], higher: bool = True) -> dict[str, tuple[str, ...]]:
    """Return which models others beat or equal in all (quality, bytes, median latency, perplexity), and who does.

    What the summary says of a model stands; where it says nothing, the figures are compared.

    Args:
        found: the models of one run; those without quality or bytes take no part, and those whose perplexity is of
            other tokens are not compared.
        higher: whether more quality is better.
    """
    points: dict[str, tuple[float | None, tuple[float | None, ...]]] = {}
    for model in found:
        quality, size = model.quality.value, model.get("bytes")
        if quality is not None and size is not None:
            rest = (size, model.get("p50"), model.perplexity.value)
            points[model.name] = (model.get("gold_tokens"), (-quality if higher else quality, *rest))
    beaten = {
        name: tuple(other for other, (cut, place) in points.items() if cut == tokens and _beats(place, point))
        for name, (tokens, point) in points.items()
    }
    beaten |= {model.name: model.beaten_by for model in found if model.beaten_by is not None}
    return {name: others for name, others in beaten.items() if others}


def best_prompts(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the prompts tried that have a score: the winner first, then who was scored on most, then the best.

    Scores on few examples are not comparable with those on many, so they do not stand between them.
    """
    tried = mappings(mapping(mapping(summary.get("prompt")).get("teacher")).get("tried"))
    scored = [entry for entry in tried if number(entry.get("score")) is not None]
    known = {id(entry): (number(entry.get("n")) or 0.0, number(entry.get("score")) or 0.0) for entry in scored}
    return sorted(scored, key=lambda entry: (entry.get("left") == "won", *known[id(entry)]), reverse=True)
