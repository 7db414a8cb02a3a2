"""The pipeline as Mermaid, and the picture drawn from it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from attar.errors import AttarError
from attar.report.flowchart import Edge, parse
from attar.report.layers import place
from attar.report.mermaid import mermaid_svg, pipeline_mermaid, summary_mermaid

EDGES = 9  # of the fixture's 14 parents, those that no longer path implies
SVG = "{http://www.w3.org/2000/svg}"


def _words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_stage_and_parent_is_in_the_text(full: dict[str, Any]) -> None:
    chart = parse(summary_mermaid(full))
    assert [lines[0] for lines in chart.nodes.values()] == [stage["stage"] for stage in full["pipeline"]]
    assert len(chart.edges) == EDGES


def test_the_picture_has_every_node_and_edge(full: dict[str, Any]) -> None:
    svg = mermaid_svg(summary_mermaid(full))
    assert {stage["stage"] for stage in full["pipeline"]} <= set(_words(svg))
    tree = ElementTree.fromstring(svg)
    assert tree.get("viewBox")
    assert len(list(tree.iter(f"{SVG}rect"))) == len(full["pipeline"])
    assert svg.count('fc-edge" marker-end') == EDGES


def test_edges_that_a_longer_path_implies_are_not_drawn() -> None:
    stages = [{"stage": "a"}, {"stage": "b", "parents": ["a"]}, {"stage": "c", "parents": ["a", "b"]}]
    assert [(edge.first, edge.last) for edge in parse(pipeline_mermaid(stages)).edges] == [("s0", "s1"), ("s1", "s2")]


def test_odd_signs_come_through_mermaid_and_the_picture() -> None:
    odd = 'a "b" <script>&lt; #35; `c` [d] | e; f'
    text = pipeline_mermaid([{"stage": odd}])
    assert "<script>" not in text
    assert text.count('"') == 2
    svg = mermaid_svg(text)
    assert "<script>" not in svg
    assert " ".join(_words(svg)) == odd


def test_line_breaks_in_a_note_do_not_break_the_text() -> None:
    assert len(pipeline_mermaid([{"stage": "a", "note": "one\ntwo"}]).splitlines()) == 2


def test_parents_by_key_and_unknown_parents() -> None:
    stages = [{"stage": "data", "key": "abc"}, {"stage": "record", "parents": ["abc", "a file"]}]
    chart = parse(pipeline_mermaid(stages))
    assert [edge.first for edge in chart.edges] == ["s0", "p3"]
    assert chart.nodes["p3"] == ("a file",)


def test_boxes_do_not_overlap_and_arrows_point_right(full: dict[str, Any]) -> None:
    chart = parse(summary_mermaid(full))
    boxes = place(chart).boxes
    shown = [boxes[name] for name in chart.nodes]
    for one in shown:
        for other in shown:
            beside = one.x + one.width <= other.x or other.x + other.width <= one.x
            apart = abs(one.y - other.y) >= (one.height + other.height) / 2
            assert one is other or beside or apart
    assert all(boxes[edge.first].x + boxes[edge.first].width < boxes[edge.last].x for edge in chart.edges)


def test_a_title_of_two_lines_is_a_title_in_both() -> None:
    svg = mermaid_svg(pipeline_mermaid([{"stage": "a", "title": "Train the control without the teacher", "note": "b"}]))
    found = [(text.get("class"), text.text) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert found == [
        ("fc-title", "Train the control"),
        ("fc-title", "without the teacher"),
        ("fc-note", "b"),
    ]


def test_chains_labels_and_comments_are_read() -> None:
    chart = parse('graph LR\n%% a comment\na["x"] -->|"then"| b --> c[z]')
    assert chart.edges == [Edge("a", "b", "then"), Edge("b", "c")]
    assert chart.nodes == {"a": ("x",), "b": ("b",), "c": ("z",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sequenceDiagram\na->>b: x", "must begin with"),
        ("", "got 'nothing'"),
        ("flowchart LR\nsubgraph one", "'subgraph one' cannot be drawn"),
        ("flowchart LR\na --> b --> a", "cycle"),
        ("flowchart LR\na --> a", "cycle"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text: str, said: str) -> None:
    with pytest.raises(AttarError, match=said):
        mermaid_svg(text)


def test_an_empty_flowchart_is_drawn() -> None:
    assert _words(mermaid_svg("flowchart LR")) == []
