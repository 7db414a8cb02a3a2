"""Plot how models recovered from compression steps: quality against minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from attar.report.compression import perplexity, recovery_curves
from attar.report.curves import SHADES, validation_metric
from attar.report.facts import mapping, mappings, number, text, writes
from attar.report.formats import metric_text
from attar.report.plotting import AXIS_FONT, figure, quality_axis, scale_of

if TYPE_CHECKING:
    import plotly.graph_objects as go


MARKS = ("circle", "square", "diamond", "triangle-up")


def recovery_figure(summary: Mapping[str, Any]) -> go.Figure | None:
    """Plot the recovery from each step on validation examples, from what the step left, against minutes of training.

    A dotted line is the quality before the first step. Of a model that writes, quality is perplexity.

    Args:
        summary: a run's summary.

    Returns:
        The figure, or None if nothing recovered.
    """
    metric = "perplexity" if writes(summary) else validation_metric(summary)
    found = [(text(row.get("step")), _pairs(summary, row, curve)) for row, curve in recovery_curves(summary)]
    several = len(found) > 1
    traces = [
        _trace(f"{place}. {name}" if several else name, pairs, metric, place - 1)
        for place, (name, pairs) in enumerate(found, start=1)
        if len(pairs) > 1
    ]
    if not traces:
        return None
    longest = max(minutes for _, pairs in found for minutes, _ in pairs)
    before = _value(summary, mapping(mappings(summary.get("damage"))[0].get("before")), "accuracy", "loss")
    if before is not None:
        traces.insert(0, _line(before, longest, metric))
    x = {"title": {"text": "minutes of recovery", "standoff": 8, "font": AXIS_FONT}, "rangemode": "tozero"}
    return figure(traces, 340, x, quality_axis(metric))


def _value(summary: Mapping[str, Any], row: Mapping[str, Any], quality: str, loss: str) -> float | None:
    return perplexity(number(row.get(loss))) if writes(summary) else number(row.get(quality))


def _pairs(
    summary: Mapping[str, Any], damage: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
) -> list[tuple[float, float]]:
    """Return minutes and quality: what the step left, then wherever recovery was looked at."""
    start = (0.0, _value(summary, mapping(damage.get("after")), "accuracy", "loss"))
    looks = ((number(row.get("seconds")), _value(summary, row, "validation", "validation_loss")) for row in curve)
    later = [(seconds / 60, value) for seconds, value in looks if seconds is not None]
    return [(minutes, value) for minutes, value in [start, *later] if value is not None]


def _trace(name: str, pairs: Sequence[tuple[float, float]], metric: str, place: int) -> dict[str, Any]:
    shade = SHADES[place % len(SHADES)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": [minutes for minutes, _ in pairs],
        "y": [scale_of(metric) * value for _, value in pairs],
        "text": [metric_text(value, metric) for _, value in pairs],
        "hovertemplate": f"{escape(name)}, after %{{x:.2f}} min: %{{text}}<extra></extra>",
        "line": {"color": shade, "width": 2},
        "marker": {"size": 7, "color": shade, "symbol": MARKS[place % len(MARKS)]},
    }


def _line(value: float, longest: float, metric: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "before the first step",
        "x": [0.0, longest],
        "y": [scale_of(metric) * value] * 2,
        "hovertemplate": f"before the first step: {metric_text(value, metric)}<extra></extra>",
        "line": {"color": "#6f7780", "width": 1.5, "dash": "dot"},
    }
