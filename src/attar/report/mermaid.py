"""Draw the pipeline: as Mermaid text, and as an SVG picture made from that text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from attar.report.facts import items, mapping, mappings, number, text
from attar.report.flowchart import Flowchart, parse
from attar.report.formats import seconds_text
from attar.report.layers import BOX_PAD, LINE_HEIGHT, Picture, Placed, place

_ENTITIES = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;"}


def mermaid_escape(label: str) -> str:
    """Write text so that Mermaid shows it as it is: quotes, tags and entities lose their meaning.

    Example:
        >>> mermaid_escape('a "b" <i> #1')
        'a #quot;b#quot; #lt;i#gt; #35;1'
    """
    return "".join(_ENTITIES.get(sign, sign) for sign in " ".join(label.split()))


def _label(stage: Mapping[str, Any]) -> str:
    seconds = number(stage.get("seconds"))
    time = "" if seconds is None else seconds_text(seconds)
    if stage.get("reused"):
        time = f"{time}, reused" if time else "reused"
    lines = [text(stage.get("title")) or text(stage.get("stage")) or "stage", time, text(stage.get("note"))]
    return "<br/>".join(mermaid_escape(line) for line in lines if line)


def _parents(stage: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(text(parent) for parent in items(stage.get("parents"))))


def _ancestors(stages: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return every stage's ancestors by name and key; stages stand after their parents."""
    above: dict[str, set[str]] = {}
    for stage in mappings(stages):
        found = {name for parent in _parents(stage) for name in (parent, *above.get(parent, ()))}
        above.update({text(stage.get(key)): found for key in ("key", "stage") if text(stage.get(key))})
    return above


def _direct(stage: Mapping[str, Any], above: Mapping[str, set[str]]) -> list[str]:
    parents = _parents(stage)
    return [one for one in parents if not any(one in above.get(other, ()) for other in parents if other != one)]


def pipeline_mermaid(stages: Sequence[Mapping[str, Any]]) -> str:
    """Write a pipeline as a Mermaid flowchart.

    Args:
        stages: mappings with ``stage`` and ``parents`` (names or keys of other stages) and, if known, ``title``,
            ``seconds``, ``reused`` and ``note``. A parent that is no stage becomes a node of its own.

    Returns:
        The text of a ``flowchart LR``, one node or edge a line. An edge that a longer path implies is not drawn: a
        last stage that reads from all others would cover the picture with arrows.

    Example:
        >>> print(pipeline_mermaid([{"stage": "data"}, {"stage": "record", "parents": ["data"], "seconds": 2}]))
        flowchart LR
            s0["data"]
            s1["record<br/>2.0 s"]
            s0 --> s1
    """
    known: dict[str, str] = {}
    for index, stage in enumerate(mappings(stages)):
        known.update({text(stage.get(key)): f"s{index}" for key in ("key", "stage") if text(stage.get(key))})
    nodes, edges, above = [], [], _ancestors(stages)
    for index, stage in enumerate(mappings(stages)):
        nodes.append(f's{index}["{_label(stage)}"]')
        for parent in _direct(stage, above):
            if parent not in known:
                known[parent] = f"p{len(known)}"
                nodes.append(f'{known[parent]}["{mermaid_escape(parent)}"]')
            edges.append(f"{known[parent]} --> s{index}")
    return "\n    ".join(["flowchart LR", *nodes, *edges])


def summary_mermaid(summary: Mapping[str, Any]) -> str:
    """Write the pipeline of a summary as a Mermaid flowchart; empty if the summary has none."""
    stages = mappings(mapping(summary).get("pipeline"))
    return pipeline_mermaid(stages) if stages else ""


def _box(placed: Placed, lines: Sequence[str], titles: int) -> str:
    top = placed.y - len(lines) * LINE_HEIGHT / 2
    spans = [
        f'<text x="{placed.x + BOX_PAD:.1f}" y="{top + LINE_HEIGHT * (row + 0.72):.1f}"'
        f' class="{"fc-title" if row < titles else "fc-note"}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    ]
    box = (
        f'<rect x="{placed.x:.1f}" y="{placed.y - placed.height / 2:.1f}" width="{placed.width:.1f}"'
        f' height="{placed.height:.1f}" rx="8" class="fc-box"/>'
    )
    return f"<g>{box}{''.join(spans)}</g>"


def _line(path: Sequence[tuple[float, float]]) -> str:
    steps = [f"M{path[0][0]:.1f},{path[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(path):
        middle = (x0 + x1) / 2
        steps.append(f"C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    return f'<path d="{" ".join(steps)}" class="fc-edge" marker-end="url(#fc-arrow)"/>'


def _edge_label(path: Sequence[tuple[float, float]], label: str) -> str:
    if not label:
        return ""
    (x0, y0), (x1, y1) = path[0], path[1]
    return f'<text x="{(x0 + x1) / 2:.1f}" y="{(y0 + y1) / 2 - 5:.1f}" class="fc-word">{escape(label)}</text>'


_STYLE = (
    ".fc-box{fill:#fff;stroke:#b9c0c9;stroke-width:1.2}.fc-edge{fill:none;stroke:#7d8793;stroke-width:1.4}"
    ".fc-title{font-size:13px;font-weight:600;fill:#1c2128}.fc-note{font-size:12px;fill:#57606a}"
    ".fc-word{font-size:11px;fill:#57606a;text-anchor:middle;paint-order:stroke;stroke:#fff;stroke-width:4px}"
)
_ARROW = (
    '<marker id="fc-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" fill="#7d8793"/></marker>'
)


def _svg(chart: Flowchart, picture: Picture) -> str:
    edges = "".join(
        _line(path) + _edge_label(path, edge.label) for edge, path in zip(chart.edges, picture.paths, strict=True)
    )
    boxes = "".join(_box(picture.boxes[name], lines, picture.titles[name]) for name, lines in picture.lines.items())
    spoken = ", ".join(lines[0] for lines in picture.lines.values())
    # Shrinking to three quarters keeps the words readable; below that the page's container scrolls.
    least = f"calc(var(--shrink, 0.75) * {picture.width:.0f}px)"
    size = f"width:100%;min-width:{least};max-width:{picture.width:.0f}px;height:auto"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width:.0f} {picture.height:.0f}" role="img"'
        f' aria-label="{escape("Flowchart: " + spoken)}" style="{size}" font-family="system-ui,sans-serif">'
        f"<style>{_STYLE}</style><defs>{_ARROW}</defs>{edges}{boxes}</svg>"
    )


def mermaid_svg(source: str) -> str:
    """Draw Mermaid text as one self-contained SVG element, to be put inline in a page.

    Args:
        source: a ``flowchart LR`` or ``graph LR`` of nodes ``a["label"]`` and edges ``a --> b`` or
            ``a -->|label| b``, without a cycle.

    Returns:
        An ``<svg>`` with a viewBox; its container should scroll sideways.

    Raises:
        AttarError: the text holds something else.

    Example:
        >>> "record" in mermaid_svg('flowchart LR; a["data"] --> b["record"]')
        True
    """
    chart = parse(source)
    return _svg(chart, place(chart))
