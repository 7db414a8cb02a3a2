"""Compression in the report: what steps cost and recovery gave back, the target, the dense models beside."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from rich.console import Console

from attar.report.advice import advise
from attar.report.card import card
from attar.report.compression import damage_cells, dense_lines, target_cells, tried_cells
from attar.report.html import render
from attar.report.plots import figures
from attar.report.tables import models_table

SECTION = "What each step cost, and what recovery gave back"


def _written(cut: dict[str, Any]) -> dict[str, Any]:
    """Return the summary as that of models which write."""
    models = copy.deepcopy(cut["models"])
    for place, model in enumerate(models):
        model["perplexity"] = {"value": 20.0 + place, "tokens": 900}
    return {**cut, "models": models}


def test_damage_of_each_step(cut: dict[str, Any]) -> None:
    vocabulary, depth, width, graph = damage_cells(cut)
    assert (vocabulary["before"], vocabulary["after"], vocabulary["recovered"]) == ("88.0 %", "88.0 %", "–")
    assert vocabulary["kept"] == "no recovery"
    assert [depth[key] for key in ("step", "parameters", "before", "after", "recovered", "steps", "took", "kept")] == [
        "depth",
        "10.4M",
        "88.0 %",
        "79.0 %",
        "87.1 %",
        "120",
        "1 min 40 s",
        "kept",
    ]
    assert width["kept"] == "not kept: it was no better"
    assert (graph["step"], graph["before"], graph["after"]) == ("dynamic_int8", "87.2 % on test", "87.1 % on test")


def test_damage_of_models_that_write_is_perplexity(cut: dict[str, Any]) -> None:
    cut["damage"][1]["after"] = {"accuracy": 0.3, "loss": 3.5}
    cut["damage"][2]["after"] = {"accuracy": 0.0, "loss": 1000.0}
    cells = damage_cells(_written(cut))
    assert cells[1]["after"] == f"{math.exp(3.5):.1f}"
    assert cells[2]["after"] == "–"  # a model that is broken so far has no perplexity that can be written
    assert cells[-1]["after"] == "24.0 on test"


def test_no_steps_on_the_model_make_no_table(full: dict[str, Any]) -> None:
    assert damage_cells(full) == []
    assert SECTION not in render(full)


def test_recovery_is_plotted_against_minutes_from_what_the_step_left(cut: dict[str, Any]) -> None:
    before, depth, width = figures(cut)["recovery"].data
    assert before.y == pytest.approx((88.0, 88.0))
    assert (depth.name, width.name) == ("2. depth", "3. width")
    assert (depth.x[0], depth.y[0]) == (0.0, pytest.approx(79.0))
    assert depth.x[-1] == pytest.approx(100 / 60)
    assert len(depth.x) == 9  # rows at which validation was not looked at have no minutes
    assert before.x[-1] == depth.x[-1]
    assert {trace.name for trace in figures(cut)["validation"].data} == {"student", "control"}


def test_recovery_of_models_that_write_is_perplexity(cut: dict[str, Any]) -> None:
    depth = figures(_written(cut))["recovery"].data[1]
    assert depth.y[0] == pytest.approx(1 / 0.79)  # the fixture's loss is minus the logarithm of its accuracy


def test_no_recovery_no_plot(cut: dict[str, Any], full: dict[str, Any]) -> None:
    assert "recovery" not in figures({**cut, "curves": full["curves"]})
    assert "recovery" not in figures({**cut, "damage": []})


def test_target(cut: dict[str, Any]) -> None:
    size, time = target_cells(cut)
    assert size == {"what": "size", "asked": "14.0 MB", "expected": "13.3 MB", "got": "13.4 MB"}
    assert time == {"what": "median time", "asked": "–", "expected": "5.10 ms", "got": "5.29 ms"}
    assert [one["chosen"] for one in tried_cells(cut)] == ["", "chosen", ""]
    assert tried_cells(cut)[1]["steps"] == "vocabulary, depth (layers 4), width (mlp 0.25), dynamic_int8"
    assert target_cells({**cut, "plan": None}) == tried_cells({**cut, "plan": None}) == []


def test_dense_models_in_words(cut: dict[str, Any]) -> None:
    size, time = dense_lines(cut)
    assert size.startswith("At equal bytes, exported less dense (all-MiniLM-L6-v2 of 3 layers")
    assert size.endswith(
        "is −1.2 points [−2.1, −0.3]: the compressed model is no better: the smaller model that was "
        "never cut serves as well."
    )
    assert time.endswith("is +0.4 points [−0.8, 1.6]: the test examples cannot tell the two apart.")
    cut["beside_dense"][0] |= {"result": "BEATS", "difference": 0.012, "low": 0.003, "high": 0.021}
    assert dense_lines(cut)[0].endswith("[0.3, 2.1]: the compressed model is better.")


def test_report_and_card_hold_it_all(cut: dict[str, Any]) -> None:
    page, text = render(cut).replace("\u00a0", " "), card(cut)
    for words in (SECTION, "The target", "All 3 plans that were tried", "What each step did", "beaten by dense"):
        assert words in page
    assert 'id="plot-recovery"' in page
    assert "| depth | kept | 10.4M | 88.0 % | 79.0 % | 87.1 % | 120 | 1 min 40 s |" in text
    assert "| size | 14.0 MB | 13.3 MB | 13.4 MB |" in text
    assert "- depth" not in text
    assert "- vocabulary: parameters 22.7M to 14.0M. vocabulary 30,522 to 7,801. Kept every token" in text
    assert "exported by dense" in text
    assert "At equal bytes, exported less dense" in text


def test_terminal_table_marks_the_beaten_and_says_by_whom(cut: dict[str, Any]) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(models_table(cut))
    text = " ".join(capture.get().split())
    assert "exported *" in text
    assert "beaten in quality, bytes and ms: teacher by student, compressed, exported, dense" in text
    assert "exported by dense" in text
    assert "At equal milliseconds, exported less dense_2" in text


def test_advice_where_a_dense_model_dominates(cut: dict[str, Any]) -> None:
    (found,) = [one for one in advise(cut) if "the model dense" in one.text]
    assert found.text.startswith("The bundle is dominated: the model dense (all-MiniLM-L6-v2 of 3 layers")
    assert (
        "(88.3 % against 87.1 %, 13.0 MB against 13.4 MB, 5.10 ms against 5.29 ms; exported less dense:" in found.text
    )
    assert found.numbers == {"difference": -0.012, "low": -0.021, "high": -0.003}


def test_advice_where_a_dense_model_is_better_but_slower(cut: dict[str, Any]) -> None:
    cut["models"][5]["latency_ms"]["p50"] = 9.0
    (found,) = [one for one in advise(cut) if "the model dense" in one.text]
    assert found.text.startswith(
        "At equal bytes, the model dense (all-MiniLM-L6-v2 of 3 layers, distilled, not cut) is"
    )
    cut["beside_dense"][0]["high"] = 0.001
    assert not [one for one in advise(cut) if "the model dense" in one.text]


def test_being_dominated_is_told_first(cut: dict[str, Any]) -> None:
    cut["models"][5]["latency_ms"]["p50"] = 9.0
    cut["models"][4]["dominated_by"] = ["dense_2"]
    (found,) = [one for one in advise(cut) if "the model dense" in one.text]
    assert found.text.startswith("The bundle is dominated: the model dense_2")


@pytest.mark.parametrize("odd", [None, "text", [None, 3], {"a": None}, [{"step": None, "before": 3}], [[]]])
@pytest.mark.parametrize("key", ["damage", "beside_dense", "plan", "curves", "compress"])
def test_odd_parts_are_passed_over(cut: dict[str, Any], key: str, odd: object) -> None:
    assert "</html>" in render({**cut, key: odd})
    assert card({**cut, key: odd}).startswith("---")


@pytest.mark.parametrize("odd", [None, 3, [3, None], [["depth", 3]], {"a": 1}])
def test_odd_steps_of_a_plan_are_passed_over(cut: dict[str, Any], odd: object) -> None:
    plan = {"steps": odd, "tried": [{"steps": odd, "bytes": None}], "expected": 3, "asked": [1]}
    assert "</html>" in render({**cut, "plan": plan})


def test_markup_in_steps_stays_words(cut: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script>"
    cut["damage"][1]["step"] = cut["beside_dense"][0]["at"] = cut["models"][5]["title"] = evil
    cut["plan"]["tried"][0]["steps"] = [[evil, {evil: evil}]]
    assert "<script>alert" not in render(cut)
