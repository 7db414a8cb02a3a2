"""Compare two runs, and refuse to compare what was measured under different conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.cells import speed_text
from attar.report.facts import ModelFacts, items, mapping, metric_name, models, ratio, text, writes
from attar.report.formats import MISSING, bytes_text, count_text, metric_title, ms_text, points_text, ratio_text

_MACHINE = ("processor", "cores")
_TIMING = ("device", "threads", "batch", "length", "warmup")


@dataclass(frozen=True)
class CompareRow:
    """Hold one measure of one model in two runs, written for people.

    Args:
        model: teacher, assistant, control, student, compressed or exported.
        measure: what was measured.
        first: its value in the first run.
        second: its value in the second run.
        change: the second against the first; "–" where they cannot be compared.
    """

    model: str
    measure: str
    first: str
    second: str
    change: str


@dataclass(frozen=True)
class Comparison:
    """Hold two runs side by side.

    Args:
        names: the titles of the two runs, never equal.
        rows: model by model, measure by measure.
        notes: sentences that say what was not compared, and why.
    """

    names: tuple[str, str]
    rows: tuple[CompareRow, ...]
    notes: tuple[str, ...]


def _names(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    one, two = text(first.get("name")) or "first", text(second.get("name")) or "second"
    return (one, two) if one != two else (f"{one} (1)", f"{two} (2)")


def _library(runtime: str) -> tuple[str, str]:
    name, _, version = runtime.partition(" ")
    return name, version


def latency_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], one: ModelFacts, two: ModelFacts
) -> dict[str, tuple[str, str]]:
    """Return the conditions that keep two latencies from being compared, each with both values.

    The machine, threads, device, batch and length must be equal; the library's version too where both ran on the
    same library (another library may be the very change that the runs compare).

    Args:
        first: the first run's summary.
        second: the second run's summary.
        one: the model of the first run.
        two: the model of the second run.
    """
    machines = mapping(first.get("conditions")), mapping(second.get("conditions"))
    pairs: list[tuple[str, Any, Any]] = [(key, machines[0].get(key), machines[1].get(key)) for key in _MACHINE]
    pairs += [
        (key, one.latency.get(key, machines[0].get(key)), two.latency.get(key, machines[1].get(key))) for key in _TIMING
    ]
    libraries = _library(one.runtime), _library(two.runtime)
    if libraries[0][0] == libraries[1][0]:
        pairs.append((libraries[0][0] or "runtime", libraries[0][1], libraries[1][1]))
    return {key: (text(a) or "unknown", text(b) or "unknown") for key, a, b in pairs if a != b}


def _quality_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    tests = [mapping(summary.get("examples")).get("test") for summary in (first, second)]
    labels = [", ".join(text(label) for label in items(summary.get("labels"))) for summary in (first, second)]
    pairs: list[tuple[str, Any, Any]] = [
        ("task", first.get("task"), second.get("task")),
        ("metric", metric_name(first), metric_name(second)),
        ("labels", labels[0], labels[1]),
        ("test examples", tests[0], tests[1]),
    ]
    return {key: (text(a) or "unknown", text(b) or "unknown") for key, a, b in pairs if a != b}


def _said(differences: Mapping[str, tuple[str, str]], names: tuple[str, str]) -> str:
    return "; ".join(f"{key} is {a} in {names[0]} and {b} in {names[1]}" for key, (a, b) in differences.items())


def _change(one: float | None, two: float | None) -> str:
    return ratio_text(ratio(two, one))


def _quality_row(one: ModelFacts, two: ModelFacts, metrics: tuple[str, str], comparable: bool) -> CompareRow:
    a, b = one.quality.value, two.quality.value
    change = points_text(b - a, None, None, metrics[0]) if comparable and a is not None and b is not None else MISSING
    title = metric_title(metrics[0]) if "rouge" in metrics[0] else "quality"
    return CompareRow(one.name, title, one.quality.show(metrics[0]), two.quality.show(metrics[1]), change)


def _text_rows(one: ModelFacts, two: ModelFacts, comparable: bool, same_conditions: bool) -> list[CompareRow]:
    """Return the measures of models that write; perplexities of other tokens, or of other texts, are not compared."""
    same_tokens = one.get("gold_tokens") == two.get("gold_tokens")
    loss = _change(one.perplexity.value, two.perplexity.value) if comparable and same_tokens else MISSING
    before, after = one.exact_match.value, two.exact_match.value
    known = comparable and before is not None and after is not None
    gain = points_text((after or 0.0) - (before or 0.0), None, None, "exact_match") if known else MISSING
    speeds = one.get("tokens_per_second"), two.get("tokens_per_second")
    shown = [speed_text(speed) for speed in speeds]
    losses = [each.perplexity.show("perplexity") for each in (one, two)]
    exact = [each.exact_match.show("exact_match") for each in (one, two)]
    return [
        CompareRow(one.name, "perplexity ↓", losses[0], losses[1], loss),
        CompareRow(one.name, "exact match", exact[0], exact[1], gain),
        CompareRow(one.name, "tokens/s", shown[0], shown[1], _change(*speeds) if same_conditions else MISSING),
    ]


def _cost_rows(one: ModelFacts, two: ModelFacts, same_conditions: bool) -> list[CompareRow]:
    rows = [
        CompareRow(one.name, title, show(one.get(key)), show(two.get(key)), _change(one.get(key), two.get(key)))
        for key, title, show in (("parameters", "parameters", count_text), ("bytes", "bytes", bytes_text))
    ]
    waits = one.get("p50"), two.get("p50")
    change = _change(*waits) if same_conditions else MISSING
    return [*rows, CompareRow(one.name, "p50", ms_text(waits[0]), ms_text(waits[1]), change)]


def _cut_differs(one: ModelFacts, two: ModelFacts) -> bool:
    counts = one.get("gold_tokens"), two.get("gold_tokens")
    return None not in counts and counts[0] != counts[1]


def compare_rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Put two runs side by side, model by model.

    Args:
        first: the summary to compare with.
        second: the summary that is compared.

    Returns:
        The rows, and notes for what was not compared: latencies of different machines, threads, batches, lengths or
        library versions; qualities of different tasks, metrics, labels or test examples.

    Example:
        >>> one = {"name": "a", "models": [{"name": "student", "bytes": 200}]}
        >>> two = {"name": "b", "models": [{"name": "student", "bytes": 100}]}
        >>> [row.change for row in compare_rows(one, two).rows if row.measure == "bytes"]
        ['0.50×']
    """
    names = _names(first, second)
    lefts, rights = ({model.name: model for model in models(summary)} for summary in (first, second))
    tests = _quality_differences(first, second)
    rows: list[CompareRow] = []
    refused: dict[str, list[str]] = {}
    other_tokens: list[str] = []
    for name in dict.fromkeys([*lefts, *rights]):
        one, two = lefts.get(name, ModelFacts(name)), rights.get(name, ModelFacts(name))
        both = one.get("p50") is not None and two.get("p50") is not None
        waits = latency_differences(first, second, one, two) if both else {}
        if waits:
            refused.setdefault(_said(waits, names), []).append(name)
        rows.append(_quality_row(one, two, (metric_name(first), metric_name(second)), not tests))
        if writes(first) or writes(second):
            rows += _text_rows(one, two, not tests, both and not waits)
        rows += _cost_rows(one, two, not waits)
        other_tokens += [name] if _cut_differs(one, two) else []
    notes = [f"Quality is not compared: {_said(tests, names)}."] if tests else []
    if other_tokens:
        notes.append(f"Perplexity of {', '.join(other_tokens)} is not compared: it is of other tokens.")
    notes += [f"Latency of {', '.join(who)} is not compared: {said}." for said, who in refused.items()]
    return Comparison(names, tuple(rows), tuple(notes))
