"""The report: complete, self-contained, and deaf to markup in a user's words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attar.errors import AttarError
from attar.report.html import render, write
from attar.report.plots import figures
from attar.report.plotting import figure_json


class _Reader(HTMLParser):
    """Collect what a browser would see: tags, links, text outside scripts, and the figures' JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.figures: dict[str, Any] = {}
        self._inside = ""
        self._figure = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._inside, self._figure = tag, dict(attrs).get("data-for") or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._figure and self._inside == "script":
            self.figures[self._figure] = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.words.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def test_every_section_of_a_full_summary(full: dict[str, Any]) -> None:
    page = _Reader(render(full))
    text = page.text()
    for heading in ("Models", "Prompts", "Compression", "Learning curves", "Confusion", "Checks", "Pipeline"):
        assert f" {heading} " in text
    assert " Conditions Times measured" in text
    assert "answers 17 times faster" in text
    assert "86.8 % [84.7, 88.8]" in text
    assert "Is this review good or bad?" in text
    assert "attar predict reviews" in text
    assert "flowchart LR" in text
    costs, curves, confusion = ("bytes", "latency"), ("loss", "validation", "prompts"), ("teacher", "exported")
    names = {*curves, *(f"quality_{name}" for name in costs), *(f"confusion_{name}" for name in confusion)}
    assert set(page.figures) == {f"plot-{name}" for name in names}


def test_the_page_loads_nothing(full: dict[str, Any]) -> None:
    page = render(full)
    reader = _Reader(page)
    assert reader.links == []
    assert not {"link", "img", "iframe", "object", "base"} & set(reader.tags)
    styles = "".join(re.findall(r"<style>.*?</style>", page, flags=re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert page.count("Plotly.newPlot(data.dataset.for") == 1


def test_markup_in_a_users_words_stays_words(full: dict[str, Any]) -> None:
    plain = _Reader(render(full)).tags
    evil = "</script><script>alert(1)</script>"
    full["labels"][0] = evil
    full["name"] = evil
    full["models"][0]["title"] = evil
    full["models"][1]["name"] = evil
    full["prompt"]["teacher"]["after"]["template"] = evil
    full["prompt"]["teacher"]["tried"][0]["name"] = evil
    full["pipeline"][0]["note"] = evil
    full["conditions"]["processor"] = evil
    page = render(full)
    assert _Reader(page).tags.count("script") == plain.count("script")
    assert "<script>alert" not in page


def test_a_minimal_summary_is_a_small_page_without_plots(minimal: dict[str, Any]) -> None:
    page = render(minimal)
    assert len(page) < 20_000
    assert "Nothing has been measured yet." in page
    assert "–" in _Reader(page).text()
    assert "Confusion" not in page


def test_an_empty_summary_renders() -> None:
    assert "No verdict" in render({})


@pytest.mark.parametrize("odd", [None, "text", [None, 3], {"a": None}])
def test_every_part_may_be_missing_or_odd(full: dict[str, Any], odd: object) -> None:
    for key in full:
        assert "</html>" in render({**full, key: odd})


@pytest.mark.parametrize("key", ["bytes", "latency_ms", "quality", "confusion", "title"])
def test_every_part_of_a_model_may_be_zero(full: dict[str, Any], key: str) -> None:
    zero = {"p50": 0, "p90": 0, "batch": 1, "threads": 2} if key == "latency_ms" else 0
    full["models"][0][key] = full["models"][4][key] = zero
    assert "</html>" in render(full)


def test_write(tmp_path: Path, minimal: dict[str, Any]) -> None:
    write(minimal, tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == render(minimal)


def test_a_place_that_cannot_be_written_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("attar.store.files.os.replace", refuse)
    with pytest.raises(AttarError, match="cannot be written"):
        write({}, tmp_path / "report.html")


def test_a_model_has_one_color_everywhere(full: dict[str, Any]) -> None:
    made = figures(full)
    lines = {trace.name: trace.line.color for trace in made["validation"].data}
    bars = {trace.name: trace.error_y.color for trace in made["quality_bytes"].data}
    assert lines == {name: bars[name] for name in lines}
    assert made["confusion_teacher"].data[0].colorscale[1][1] == bars["teacher"]


def test_intervals_reach_the_plot(full: dict[str, Any]) -> None:
    teacher = figures(full)["quality_bytes"].data[0]
    assert teacher.y[0] == pytest.approx(86.8)
    assert teacher.error_y.array[0] == pytest.approx(2.0)
    assert teacher.error_y.arrayminus[0] == pytest.approx(2.1)
    assert teacher.marker.color == "#ffffff"  # dominated: hollow


def test_the_winning_prompt_is_first_and_marked(full: dict[str, Any]) -> None:
    winner = figures(full)["prompts"].data[0]
    assert (winner.name, winner.y, winner.marker.symbol) == ("winner", (0,), "star")


def test_json_of_a_figure_closes_no_script(full: dict[str, Any]) -> None:
    full["labels"] = ["</script>", "b"]
    assert "<" not in figure_json(figures(full)["confusion_teacher"])
