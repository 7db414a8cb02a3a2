"""Plot how models learned: loss, validation, and the share of each objective in the gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from attar.report.compression import is_recovery
from attar.report.facts import SYMBOLS, color, mapping, mappings, metric_name, number, text, writes
from attar.report.formats import metric_text
from attar.report.plotting import AXIS_FONT, figure, quality_axis, scale_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARE = "share of "
"""What a key of a curve's row begins with where it holds an objective's share in the gradient."""

SHADES = ("#1f6fc4", "#b8630b", "#13795b", "#6741b3", "#b3304f", "#6f7780")
_DASHES = ("solid", "dash", "dot", "dashdot")

Pairs = Sequence[tuple[float, float]]


def validation_metric(summary: Mapping[str, Any]) -> str:
    """Return what ``validation`` in a run's curves is measured in: of a model that writes, tokens are counted.

    Example:
        >>> validation_metric({"metric": {"name": "rouge_l"}, "models": [{"perplexity": {"value": 9.0}}]})
        'token accuracy'
    """
    return "token accuracy" if writes(summary) else metric_name(summary)


def curves_figure(summary: Mapping[str, Any], key: str) -> go.Figure | None:
    """Plot a learning curve of each model that was trained, against the optimizer's step.

    Args:
        summary: a run's summary.
        key: ``"loss"``, ``"validation"`` or another value of the curves.

    Returns:
        The figure, or None if no curve has that value.
    """
    metric = validation_metric(summary) if key == "validation" else "loss"
    curves = ((name, _pairs(rows, key)) for name, rows in _learned(summary).items())
    traces = [_curve(name, pairs, metric) for name, pairs in curves if pairs]
    return figure(traces, 340, _steps(), quality_axis(metric)) if traces else None


def _learned(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curves of models that learned; recoveries from compression are shown with what they recover from."""
    every = {text(name): rows for name, rows in mapping(summary.get("curves")).items()}
    return {name: rows for name, rows in every.items() if not is_recovery(name)}


def _steps() -> dict[str, Any]:
    return {"title": {"text": "step", "standoff": 8, "font": AXIS_FONT}, "rangemode": "tozero"}


def _pairs(rows: Any, key: str) -> Pairs:
    found = [(number(row.get("step")), number(row.get(key))) for row in mappings(rows)]
    return [(step, value) for step, value in found if step is not None and value is not None]


def _curve(name: str, pairs: Pairs, metric: str) -> dict[str, Any]:
    line = {"color": color(name), "width": 2, "dash": "dot" if name == "control" else "solid"}
    marker = {"size": 6, "symbol": SYMBOLS.get(name, "circle"), "color": color(name)}
    return _trace(name, pairs, metric) | {"line": line, "marker": marker}


def _trace(name: str, pairs: Pairs, metric: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": [step for step, _ in pairs],
        "y": [scale_of(metric) * value for _, value in pairs],
        "text": [metric_text(value, metric) for _, value in pairs],
        "hovertemplate": f"{escape(name)}, step %{{x}}: %{{text}}<extra></extra>",
    }


def shares_figure(summary: Mapping[str, Any]) -> go.Figure | None:
    """Plot the share of each objective in the gradient, of every model that learns from several.

    Returns:
        The figure, or None if every model learned from one objective.
    """
    found = list(_shares(summary))
    several = len({model for model, _, _ in found}) > 1
    traces = [
        _trace(f"{model}: {objective}" if several else objective, pairs, "")
        | {"line": {"color": SHADES[row % len(SHADES)], "width": 2, "dash": _DASHES[row % len(_DASHES)]}}
        for row, (model, objective, pairs) in enumerate(found)
    ]
    y = {"title": {"text": "share of the gradient, %", "standoff": 8, "font": AXIS_FONT}, "range": [0, 103]}
    return figure(traces, 340, _steps(), y) if traces else None


def _shares(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Pairs]]:
    for model, rows in _learned(summary).items():
        keys = dict.fromkeys(text(key) for row in mappings(rows) for key in row if text(key).startswith(SHARE))
        for key in keys:
            pairs = _pairs(rows, key)
            if pairs:
                yield model, key.removeprefix(SHARE), pairs
