"""Read the part of Mermaid that attar writes: a flowchart of nodes and edges."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from attar.errors import AttarError

_HEADER = re.compile(r"(?:flowchart|graph)\s+LR\b")
_NODE = re.compile(r"""\s*([A-Za-z_]\w*)(?:\["([^"]*)"\]|\[([^\[\]"]*)\]|\("([^"]*)"\)|\(([^()"]*)\))?""")
_ARROW = re.compile(r'\s*-->\s*(?:\|\s*"?([^|"]*?)"?\s*\|)?')
_ENTITY = re.compile(r"#(\w+);")
_BREAK = re.compile(r"<br\s*/?>")


@dataclass(frozen=True)
class Edge:
    """Hold an arrow between two nodes.

    Args:
        first: the node it leaves.
        last: the node it points to.
        label: the words on it, if any.
    """

    first: str
    last: str
    label: str = ""


@dataclass
class Flowchart:
    """Hold a flowchart.

    Args:
        nodes: id -> lines of the label, in the order of first mention.
        edges: the arrows, in their order.
    """

    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)


def _entity(found: re.Match[str]) -> str:
    name = found.group(1)
    return html.unescape(f"&{'#' if name.isdigit() else ''}{name};")


def decode(label: str) -> tuple[str, ...]:
    """Return the lines of a Mermaid label, with its entities as the signs they stand for.

    Example:
        >>> decode("a #lt;b#gt;<br/>#35;1")
        ('a <b>', '#1')
    """
    return tuple(_ENTITY.sub(_entity, line).strip() for line in _BREAK.split(label))


def _refuse(line: str) -> AttarError:
    return AttarError(
        f'The Mermaid line {line.strip()!r} cannot be drawn: only nodes like a["label"] and edges like a --> b are. '
        "Write it in that form, or draw the text with Mermaid itself."
    )


def _read_node(chart: Flowchart, line: str, start: int) -> tuple[str, int]:
    found = _NODE.match(line, start)
    if found is None:
        raise _refuse(line)
    name = found.group(1)
    label = next((group for group in found.groups()[1:] if group is not None), None)
    if label is not None or name not in chart.nodes:
        chart.nodes[name] = decode(name if label is None else label)
    return name, found.end()


def _read_line(chart: Flowchart, line: str) -> None:
    first, at = _read_node(chart, line, 0)
    while line[at:].strip():
        arrow = _ARROW.match(line, at)
        if arrow is None:
            raise _refuse(line)
        last, at = _read_node(chart, line, arrow.end())
        chart.edges.append(Edge(first, last, " ".join(decode(arrow.group(1) or ""))))
        first = last


def _statements(source: str) -> list[str]:
    # A semicolon ends a statement, but inside quotes it ends an entity.
    lines = re.findall(r'(?:"[^"\n]*"|[^";\n]|")+', source)
    return [line for line in lines if line.strip() and not line.strip().startswith("%%")]


def parse(source: str) -> Flowchart:
    """Read Mermaid text.

    Args:
        source: a ``flowchart LR`` or ``graph LR``.

    Raises:
        AttarError: the text is another kind of diagram, or holds more than nodes and edges.

    Example:
        >>> parse('flowchart LR; a["x"] -->|then| b').edges
        [Edge(first='a', last='b', label='then')]
    """
    lines = _statements(source)
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        given = lines[0].strip() if lines else "nothing"
        raise AttarError(f"Mermaid text to draw must begin with 'flowchart LR', got {given!r}. Begin it so.")
    chart = Flowchart()
    for line in lines[1:]:
        _read_line(chart, line)
    return chart
