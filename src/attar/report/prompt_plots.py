"""Plot the prompts that were tried with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from attar.report.facts import best_prompts, color, estimate, number, text
from attar.report.formats import is_share, number_text
from attar.report.plotting import AXIS_FONT, bars, figure, scale_of, short
from attar.report.prompts import criterion, criterion_word, won

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 30
"""Prompts in the figure at most, the best ones."""
GROUPS = {
    "winner": (color("teacher"), "star", 14),
    "scored to the end": ("#3d4650", "circle", 8),
    "left before": ("#a9b1ba", "circle-open", 8),
}
"""What became of a prompt -> color, symbol and size of its dot."""


def prompts_figure(summary: Mapping[str, Any]) -> go.Figure | None:
    """Plot the best prompts tried with their intervals; the winner is a star, those that left before the end are pale.

    Returns:
        The figure, or None if no prompt has a score.
    """
    shown = best_prompts(summary)[:SHOWN]
    if not shown:
        return None
    groups: dict[str, list[int]] = {name: [] for name in GROUPS}
    for row, entry in enumerate(shown):
        groups[_group(entry, shown)].append(row)
    traces = [_dots(name, rows, shown, criterion(summary)) for name, rows in groups.items() if rows]
    names = [escape(short(text(entry.get("name")), 22)) for entry in shown]
    ticks = {"tickmode": "array", "tickvals": list(range(len(shown))), "ticktext": names, "showgrid": False}
    y = {**ticks, "range": [len(shown) - 0.4, -0.6], "tickfont": {"size": 11}, "ticks": ""}
    plot = figure(traces, 110 + 22 * len(shown), _score_axis(summary), y)
    plot.update_layout(legend={"y": -0.01})
    return plot


def _score_axis(summary: Mapping[str, Any]) -> dict[str, Any]:
    unit = "%" if is_share(criterion(summary)) else "nats"
    title = f"{short(criterion_word(summary), 34)}, {unit}"
    return {"title": {"text": escape(title), "standoff": 8, "font": AXIS_FONT}, "side": "top"}


def _group(entry: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> str:
    most = max(number(one.get("n")) or 0.0 for one in shown)
    if won(entry):
        return "winner"
    return "scored to the end" if (number(entry.get("n")) or 0.0) >= most else "left before"


def _dots(name: str, rows: Sequence[int], shown: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    shade, symbol, size = GROUPS[name]
    scale = scale_of(metric)
    found = [estimate({**shown[row], "value": shown[row].get("score")}) for row in rows]
    spans = [bars(one.value or 0.0, one.low, one.high, scale) for one in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [scale * (one.value or 0.0) for one in found],
        "y": list(rows),
        "error_x": {
            **spans[0],
            "array": [span["array"][0] for span in spans],
            "arrayminus": [span["arrayminus"][0] for span in spans],
            "color": shade,
            "width": 3,
        },
        "marker": {"color": shade, "symbol": symbol, "size": size},
        "text": [
            f"<b>{escape(text(shown[row].get('name')))}</b><br>{one.show(metric)}, n = {number_text(one.n)}"
            for row, one in zip(rows, found, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
