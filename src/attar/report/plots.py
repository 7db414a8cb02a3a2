"""Plot a run: quality against size and against time, and confusion; return all figures by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from attar.report.curves import curves_figure, shares_figure
from attar.report.facts import (
    SYMBOLS,
    ModelFacts,
    color,
    dominated,
    higher_is_better,
    items,
    metric_name,
    model_named,
    models,
    text,
    writes,
)
from attar.report.formats import bytes_text, metric_title, ms_text, number_text
from attar.report.plotting import AXIS_FONT, bars, figure, log_axis, quality_axis, scale_of, short
from attar.report.prompt_plots import prompts_figure
from attar.report.recovery_plots import recovery_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CELLS_WRITTEN = 16  # classes up to which each cell of a confusion matrix carries its count


def _point(model: ModelFacts, cost: float, metric: str, hollow: bool) -> dict[str, Any]:
    shade, value = color(model.name), model.quality.value or 0.0
    said = f"<b>{escape(model.name)}</b> {escape(model.title)}<br>{escape(metric_title(metric))} "
    said += f"{model.quality.show(metric)}<br>{bytes_text(model.get('bytes'))}, {ms_text(model.get('p50'))}"
    symbol = SYMBOLS.get(model.name, "circle")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(model.name),
        "x": [cost],
        "y": [scale_of(metric) * value],
        "error_y": {**bars(value, model.quality.low, model.quality.high, scale_of(metric)), "color": shade},
        "marker": {
            "color": "#ffffff" if hollow else shade,
            "size": 15 if symbol == "star" else 12,
            "symbol": symbol,
            "line": {"width": 2, "color": shade},
        },
        "hovertemplate": f"{said}<extra></extra>",
    }


def quality_figure(summary: Mapping[str, Any], cost: str) -> go.Figure | None:
    """Plot each model's quality, with its interval, against a cost on a log axis; dominated models are hollow.

    Args:
        summary: a run's summary.
        cost: ``"bytes"`` or ``"p50"``.

    Returns:
        The figure, or None if no model has both values.
    """
    metric = metric_name(summary)
    hollow = dominated(models(summary), higher_is_better(summary))
    known: list[tuple[ModelFacts, float]] = []
    for model in models(summary):
        value = model.get(cost)
        if model.quality.value is not None and value is not None and value > 0:
            known.append((model, value))
    if not known:
        return None
    title, show = ("size of the weights", bytes_text) if cost == "bytes" else ("median time an answer", ms_text)
    axis = log_axis([value for _, value in known], title, show)
    traces = [_point(model, value, metric, model.name in hollow) for model, value in known]
    return figure(traces, 380, axis, quality_axis(metric))


def confusion_figure(summary: Mapping[str, Any], name: str) -> go.Figure | None:
    """Plot the confusion matrix of a model: the shade is the share of the true class, the number the count.

    Returns:
        The figure, or None if the summary has no square matrix of counts for this model.
    """
    model = model_named(summary, name)
    if model is None or not model.confusion:
        return None
    count = len(model.confusion)
    labels = [text(label) for label in items(summary.get("labels"))]
    labels = labels if len(labels) == count else [str(index) for index in range(count)]
    shares = [[cell / (sum(row) or 1.0) for cell in row] for row in model.confusion]
    trace = _heat(model, shares, [escape(short(label, 14)) for label in labels])
    ticks = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": trace.pop("ticktext"), "showgrid": False}
    long = sum(map(len, labels)) > 36  # set level, such labels would run into each other on a phone
    predicted = {"text": "predicted", "standoff": 8, "font": AXIS_FONT}
    x = {**ticks, "tickangle": -45 if long else 0, "title": predicted, "constrain": "domain"}
    y = {**ticks, "title": {"text": "true", "standoff": 8, "font": AXIS_FONT}, "autorange": "reversed"}
    return figure([trace], min(300 + 14 * count, 760), x, y)


def _heat(model: ModelFacts, shares: Sequence[Sequence[float]], labels: Sequence[str]) -> dict[str, Any]:
    written = [[number_text(cell) for cell in row] for row in model.confusion]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": shares,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#f6f8fa"], [1, color(model.name)]],
        "showscale": False,
        "text": written,
        "customdata": [[[row, column] for column in labels] for row in labels],
        "hovertemplate": "true %{customdata[0]}, predicted %{customdata[1]}: %{text} (%{z:.1%})<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "ticktext": list(labels),
    }
    return trace | {"texttemplate": "%{text}"} if len(shares) <= _CELLS_WRITTEN else trace


def figures(summary: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Return every figure that a summary has the values for, by name.

    Names: quality_bytes, quality_latency, prompts, loss, validation, validation_loss (of models that write), shares,
    recovery, confusion_teacher, confusion_exported (or of the last model there is).
    """
    last = next((name for name in ("exported", "compressed", "student") if model_named(summary, name)), "exported")
    made = {
        "quality_bytes": quality_figure(summary, "bytes"),
        "quality_latency": quality_figure(summary, "p50"),
        "prompts": prompts_figure(summary),
        "loss": curves_figure(summary, "loss"),
        "validation": curves_figure(summary, "validation"),
        "validation_loss": curves_figure(summary, "validation_loss") if writes(summary) else None,
        "shares": shares_figure(summary),
        "recovery": recovery_figure(summary),
        "confusion_teacher": confusion_figure(summary, "teacher"),
        f"confusion_{last}": confusion_figure(summary, last),
    }
    return {name: figure for name, figure in made.items() if figure is not None}
