"""The model card: front matter that parses, a Mermaid fence, escaped tables."""

from __future__ import annotations

from typing import Any

import yaml

from attar.report.card import card


def _front(text: str) -> dict[str, Any]:
    matter = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(matter, dict)
    return matter


def test_front_matter(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    assert _front(card(full)) == {
        "pipeline_tag": "text-classification",
        "metrics": ["accuracy"],
        "tags": ["attar", "knowledge-distillation", "model-compression", "onnx", "quantized"],
    }
    assert "license" not in _front(card(minimal))
    assert _front(card({**minimal, "license": "apache-2.0"}))["license"] == "apache-2.0"


def test_sections(full: dict[str, Any]) -> None:
    text = card(full)
    assert "```mermaid\nflowchart LR\n" in text
    assert "| exported (ONNX) | 87.1 % [85.0, 89.1] | 13.4 MB |" in text
    assert "**BEATS: student over control" in text
    assert "AMD EPYC 7B13" in text
    assert 'attar predict reviews "a text of yours"' in text
    assert "## Intended use and limits" in text


def test_a_users_words_break_no_table(full: dict[str, Any]) -> None:
    full["models"][0]["title"] = "a | b <img src=x>\nc"
    full["labels"] = [f"label {index}" for index in range(30)]
    text = card(full)
    rows = [line for line in text.splitlines() if line.startswith("| teacher")]
    assert rows[0].count("|") - rows[0].count("\\|") == 10
    assert "<img" not in text
    assert "label 19 and 10 more" in text


def test_what_is_missing_is_left_out(minimal: dict[str, Any]) -> None:
    text = card(minimal)
    assert "mermaid" not in text
    assert "## Measured under" not in text
    assert "## How to use it" in text
