"""Say a run's result in plain words: one sentence for the models, one line for the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.facts import (
    ModelFacts,
    final_model,
    mapping,
    metric_name,
    model_named,
    number,
    ratio,
    speedup,
    text,
    writes,
)
from attar.report.formats import bytes_text, metric_text, metric_title, number_text, points_text, times_text


def _against(base: ModelFacts) -> str:
    return f"its teacher ({base.title})" if base.title else "its teacher"


def _size(final: ModelFacts, base: ModelFacts | None) -> str:
    times = ratio(base.get("bytes"), final.get("bytes")) if base else None
    if base is None or not times:
        return ""
    if 0.95 < times < 1.05:
        return f", as large as {_against(base)},"
    word, factor = ("smaller", times) if times > 1 else ("larger", 1 / times)
    return f", {times_text(factor)} times {word} than {_against(base)},"


def _speed(final: ModelFacts, base: ModelFacts | None, named: bool) -> str:
    times = speedup(final, base)
    if base is None or not times:
        return ""
    if 0.95 < times < 1.05:
        return "answers as fast" + (f" as {_against(base)}" if named else "")
    word, factor = ("faster", times) if times > 1 else ("slower", 1 / times)
    return f"answers {times_text(factor)} times {word}" + (f" than {_against(base)}" if named else "")


def _quality(summary: Mapping[str, Any], final: ModelFacts) -> str:
    if final.quality.value is None:
        return ""
    metric = metric_name(summary)
    others = [
        f"{name} {metric_text(model.quality.value, metric)}"
        for name in ("teacher", "control")
        if (model := model_named(summary, name)) and model.quality.value is not None
    ]
    value = metric_text(final.quality.value, metric)
    exact = metric in ("", "accuracy")
    said = f"gets {value} of the test set right" if exact else f"reaches {value} {metric_title(metric)} on the test set"
    return said + (f" ({', '.join(others)})" if others else "")


def headline(summary: Mapping[str, Any]) -> str:
    """Say in one sentence how small, how fast and how good the model is, against its teacher.

    Example:
        >>> headline({"models": [{"name": "student", "bytes": 13_400_000, "quality": {"value": 0.871}}]})
        'A model of 13.4 MB gets 87.1 % of the test set right.'
        >>> headline({})
        'Nothing has been measured yet.'
    """
    final, base = final_model(summary), model_named(summary, "teacher")
    if final is None or (final.get("bytes") is None and final.quality.value is None):
        return "Nothing has been measured yet."
    size = _size(final, base)
    parts = [part for part in (_speed(final, base, named=not size), _quality(summary, final)) if part]
    subject = f"A model of {bytes_text(final.get('bytes'))}" if final.get("bytes") is not None else "The model"
    return f"{subject}{size} {' and '.join(parts) or 'is ready'}."


def verdict_line(summary: Mapping[str, Any]) -> str:
    """Say the verdict with its claim, its difference and how sure it is.

    Example:
        >>> verdict_line({"verdict": {"claim": "student over control", "result": "BEATS", "difference": 0.02,
        ...                           "low": 0.004, "high": 0.036, "n": 1000}})
        'BEATS: student over control, +2.0 points [0.4, 3.6], n = 1000.'
        >>> verdict_line({})
        'No verdict: nothing was compared.'
    """
    verdict = mapping(summary.get("verdict"))
    result = text(verdict.get("result"))
    if not result:
        return "No verdict: nothing was compared."
    parts = [text(verdict.get("claim")) or "student over control"]
    difference, low, high, n = (number(verdict.get(key)) for key in ("difference", "low", "high", "n"))
    if difference is not None:
        metric = metric_name(summary)
        on = f" on {metric_title(metric)}" if writes(summary) else ""
        parts.append(points_text(difference, low, high, metric) + on)
    if n is not None:
        parts.append(f"n = {number_text(n).replace(',', '')}")
    method = text(verdict.get("method"))
    return f"{result}: {', '.join(parts)}{f' ({method})' if method else ''}."


def verdict_meaning(summary: Mapping[str, Any]) -> str:
    """Say what the verdict means to someone who has not met its words; empty without a verdict."""
    result = text(mapping(summary.get("verdict")).get("result"))
    other = text(summary.get("control_learns_from")) or "the labels alone"
    other = "gold texts" if other == "gold labels" and writes(summary) else other
    meanings = {
        "BEATS": "The student is better than the control: the whole interval of the difference lies above 0.",
        "NO BEATS": "The student is not better than the control: the interval of the difference does not lie above 0.",
        "INCONCLUSIVE": "The interval of the difference includes 0: these test examples cannot tell the two apart.",
    }
    if result not in meanings:
        return ""
    return (
        f"{meanings[result]} The control is the same student, trained on the same data for the same steps, "
        f"that learns from {other}."
    )
