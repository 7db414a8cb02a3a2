"""Lay a flowchart out in layers from left to right, so that every arrow points to the right.

Reference: Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures", 1981:
longest-path layers, stand-ins for arrows that cross a layer, and barycenters to order each layer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from attar.errors import AttarError
from attar.report.flowchart import Edge, Flowchart

LINE_HEIGHT = 18.0
BOX_PAD = 12.0
_GAP_ACROSS = 38.0
_GAP_DOWN = 22.0
_MARGIN = 6.0
_WRAP = 20  # characters: a note does not make its box wider than a phone
_SWEEPS = 6


_Links = dict[str, list[tuple[str, float]]]


@dataclass
class Placed:
    """Hold where a box lies: its left edge, its vertical middle and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """Hold a laid-out flowchart.

    Args:
        width: of the whole picture, in pixels.
        height: of the whole picture, in pixels.
        boxes: node -> its place.
        lines: node -> its wrapped lines.
        titles: node -> how many of these lines are its title.
        paths: for each edge the points it runs through.
    """

    width: float
    height: float
    boxes: Mapping[str, Placed]
    lines: Mapping[str, tuple[str, ...]]
    titles: Mapping[str, int]
    paths: Sequence[Sequence[tuple[float, float]]]


def _layers(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    layer = dict.fromkeys(nodes, 0)
    for _ in range(len(layer)):
        late = [edge for edge in edges if layer[edge.last] <= layer[edge.first]]
        if not late:
            break
        for edge in late:
            layer[edge.last] = max(layer[edge.last], layer[edge.first] + 1)
    else:
        if edges:
            raise AttarError(
                f"The flowchart has a cycle through {edges[0].first!r}: a pipeline runs one way. Remove an edge of it."
            )
    entered = {edge.last for edge in edges}
    for node in nodes:
        nexts = [layer[edge.last] for edge in edges if edge.first == node]
        if node not in entered and nexts:  # a source stands right before what reads it
            layer[node] = min(nexts) - 1
    return layer


def _chains(edges: Sequence[Edge], layer: dict[str, int]) -> list[list[str]]:
    """Return each edge as a chain of neighbors; a stand-in is added to ``layer`` for each layer crossed."""
    chains = []
    for index, edge in enumerate(edges):
        between = [f"{index}:{step}" for step in range(layer[edge.first] + 1, layer[edge.last])]
        layer.update({name: int(name.split(":")[1]) for name in between})
        chains.append([edge.first, *between, edge.last])
    return chains


def _links(names: Iterable[str], chains: Sequence[Sequence[str]]) -> _Links:
    links: _Links = {name: [] for name in names}
    for chain in chains:
        for first, last in pairwise(chain):
            weight = float(1 + 3 * ((first not in chain[:1]) + (last not in chain[-1:])))  # long arrows run straight
            links[first].append((last, weight))
            links[last].append((first, weight))
    return links


def _order(layer: Mapping[str, int], links: _Links) -> list[list[str]]:
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, at in layer.items():
        columns[at].append(name)
    rank = {name: row - len(column) / 2 for column in columns for row, name in enumerate(column)}
    centers = {name: [other for other, _ in near] or [name] for name, near in links.items()}
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            column.sort(key=lambda name: fmean(rank[other] for other in centers[name]))
            rank.update({name: row - len(column) / 2 for row, name in enumerate(column)})
    return columns


def _wrapped(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for line in lines for part in (textwrap.wrap(line, _WRAP) or [""]))


def _width(lines: Sequence[str], titles: int) -> float:
    # No font is at hand to measure with: this is wide enough for a broad sans-serif, 13 pixels and bold or 12 pixels.
    return max(*((8.1 if row < titles else 7.2) * len(line) + 2 * BOX_PAD for row, line in enumerate(lines)), 64.0)


def _heights(columns: Sequence[Sequence[str]], links: _Links, tall: Mapping[str, float]) -> dict[str, float]:
    """Return each node's vertical middle: near its neighbors, in the order of its column, without overlap."""
    from scipy.optimize import isotonic_regression

    offsets: dict[str, float] = {}
    for column in columns:
        below = 0.0
        for name in column:
            offsets[name] = below + tall[name] / 2
            below += tall[name] + _GAP_DOWN
    middle = {name: offsets[name] - max(offsets[n] for n in column) / 2 for column in columns for name in column}
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = [
                sum(weight * middle[other] for other, weight in links[name]) / sum(weight for _, weight in links[name])
                if links[name]
                else middle[name]
                for name in column
            ]
            free = isotonic_regression([want - offsets[name] for want, name in zip(wanted, column, strict=True)]).x
            middle.update({name: float(at) + offsets[name] for at, name in zip(free, column, strict=True)})
    top = min((middle[name] - tall[name] / 2 for name in middle), default=0.0)
    return {name: at - top + _MARGIN for name, at in middle.items()}


def _path(chain: Sequence[str], boxes: Mapping[str, Placed]) -> list[tuple[float, float]]:
    points = [(boxes[chain[0]].x + boxes[chain[0]].width, boxes[chain[0]].y)]
    for name in chain[1:-1]:
        points += [(boxes[name].x, boxes[name].y), (boxes[name].x + boxes[name].width, boxes[name].y)]
    return [*points, (boxes[chain[-1]].x, boxes[chain[-1]].y)]


def place(chart: Flowchart) -> Picture:
    """Lay a flowchart out.

    Raises:
        AttarError: its edges run in a cycle.

    Example:
        >>> place(Flowchart({"a": ("data",), "b": ("record",)}, [Edge("a", "b")])).boxes["a"].x
        6.0
    """
    layer = _layers(list(chart.nodes), chart.edges)
    chains = _chains(chart.edges, layer)
    lines = {name: _wrapped(label) for name, label in chart.nodes.items()}
    titles = {name: len(_wrapped(label[:1])) for name, label in chart.nodes.items()}
    widths = {name: _width(lines[name], titles[name]) for name in lines}
    tall = dict.fromkeys(layer, 0.0) | {n: len(label) * LINE_HEIGHT + 1.2 * BOX_PAD for n, label in lines.items()}
    links = _links(layer, chains)
    columns = _order(layer, links)
    middle = _heights(columns, links, tall)
    boxes: dict[str, Placed] = {}
    x = _MARGIN
    for names in columns:
        wide = max(widths[name] for name in names if name in widths)
        boxes |= {name: Placed(x, middle[name], widths.get(name, wide), tall[name]) for name in names}
        x += wide + _GAP_ACROSS
    return Picture(
        width=max(x - _GAP_ACROSS, _MARGIN) + _MARGIN,
        height=max((box.y + box.height / 2 for box in boxes.values()), default=0.0) + _MARGIN,
        boxes=boxes,
        lines=lines,
        titles=titles,
        paths=[_path(chain, boxes) for chain in chains],
    )
