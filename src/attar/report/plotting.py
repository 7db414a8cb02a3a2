"""Hold the look that every plot shares: the frame, the axes, the intervals and their JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from attar.report.formats import is_share, metric_title

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
_GRID = "#e4e7eb"
AXIS_FONT = {"size": 13, "color": "#57606a"}
_AXIS = {"gridcolor": _GRID, "linecolor": "#b9c0c9", "zeroline": False, "ticks": "outside", "tickcolor": "#b9c0c9"}

CONFIG = {"responsive": True, "displayModeBar": False, "scrollZoom": False}
"""How plotly shows every figure: it follows the width of the page and shows no buttons."""


def figure(traces: Sequence[Mapping[str, Any]], height: int, x: Mapping[str, Any], y: Mapping[str, Any]) -> go.Figure:
    """Return a figure of these traces in the shared frame, its height in pixels."""
    import plotly.graph_objects as go

    layout = {
        "template": "none",
        "height": height,
        "margin": {"l": 12, "r": 12, "t": 12, "b": 20},
        "font": {"family": _FONT, "size": 12.5, "color": "#1c2128"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": "#b9c0c9", "font": {"color": "#1c2128"}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.28, "yanchor": "top"},
        "xaxis": {**_AXIS, "automargin": True, **x},
        "yaxis": {**_AXIS, "automargin": True, **y},
        "dragmode": False,  # on a phone a finger on a plot scrolls the page
    }
    return go.Figure({"data": list(traces), "layout": layout})


def scale_of(metric: str) -> float:
    """Return what a metric is multiplied by on an axis: 100 for a share."""
    return 100.0 if is_share(metric) else 1.0


def quality_axis(metric: str) -> dict[str, Any]:
    """Return the settings of an axis that shows a metric."""
    name = escape(metric_title(metric))
    return {"title": {"text": f"{name}, %" if is_share(metric) else name, "standoff": 8, "font": AXIS_FONT}}


def bars(value: float, low: float | None, high: float | None, scale: float) -> dict[str, Any]:
    """Return the settings of an interval around one value."""
    up, down = (0.0 if high is None else high - value), (0.0 if low is None else value - low)
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * max(up, 0.0)],
        "arrayminus": [scale * max(down, 0.0)],
        "thickness": 1.5,
        "width": 5,
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Return at most seven round values on a log axis that cover ``low`` to ``high``, both > 0.

    Example:
        >>> log_ticks(12.0, 300.0)
        [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
    """
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [float(step * 10**power) if power >= 0 else step / 10**-power for power in powers for step in steps]
        first = max((tick for tick in every if tick <= low), default=every[0])
        last = min((tick for tick in every if tick >= high), default=every[-1])
        ticks = [tick for tick in every if first <= tick <= last]
        if len(ticks) <= 7:
            break
    return ticks


def _round(shown: str) -> str:
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", shown).replace(". ", " ")


def log_axis(values: Sequence[float], title: str, show: Callable[[float], str]) -> dict[str, Any]:
    """Return the settings of a log axis around values > 0, with round ticks that ``show`` writes."""
    low, high = min(values) / 1.4, max(values) * 1.4
    ticks = log_ticks(low, high)
    return {
        "type": "log",
        "title": {"text": title, "standoff": 8, "font": AXIS_FONT},
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [_round(show(tick)) for tick in ticks],
    }


def short(label: str, length: int) -> str:
    """Cut a text to a length, with an ellipsis where something is left out."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def figure_json(figure: go.Figure) -> str:
    r"""Return a figure as JSON that may stand inside a ``<script>`` element: no ``<`` is left in it.

    Example:
        >>> import plotly.graph_objects as go
        >>> "<" in figure_json(go.Figure({"layout": {"title": {"text": "a<b"}}}))
        False
    """
    return str(figure.to_json()).replace("<", "\\u003c")
