"""Reading a summary: what is absent or odd is None, and only comparable things are compared."""

from __future__ import annotations

from typing import Any

from attar.report import facts
from attar.report.words import headline, verdict_line, verdict_meaning


def test_odd_values_are_none_not_errors() -> None:
    odd = {"name": "student", "bytes": "big", "quality": 0.5, "latency_ms": None, "confusion": [[1, 2], [3]]}
    model = facts.models({"models": [odd, 7]})[0]
    assert (model.get("bytes"), model.quality.value, model.get("p50"), model.confusion) == (None, 0.5, None, ())
    assert facts.models({"models": None}) == []


def test_dominated_models(full: dict[str, Any]) -> None:
    beaten = facts.dominated(facts.models(full))
    assert beaten == {
        "teacher": ("student", "compressed", "exported"),
        "control": ("student", "compressed", "exported"),
    }
    alone = [facts.ModelFacts("a", quality=facts.Estimate(0.5), numbers={"bytes": 2.0, "p50": 1.0})]
    unknown = facts.ModelFacts("b", quality=facts.Estimate(0.6), numbers={"bytes": 1.0, "p50": None})
    assert facts.dominated([*alone, unknown]) == {}


def test_what_the_summary_says_of_domination_stands(full: dict[str, Any]) -> None:
    full["models"][0]["dominated_by"] = []
    full["models"][4]["dominated_by"] = ["dense"]
    beaten = facts.dominated(facts.models(full))
    assert set(beaten) == {"control", "exported"}
    assert beaten["exported"] == ("dense",)


def test_less_of_a_metric_can_be_better() -> None:
    one = facts.ModelFacts("a", quality=facts.Estimate(1.0), numbers={"bytes": 1.0})
    two = facts.ModelFacts("b", quality=facts.Estimate(2.0), numbers={"bytes": 1.0})
    assert facts.dominated([one, two], higher=False) == {"b": ("a",)}


def test_no_speedup_across_conditions(full: dict[str, Any]) -> None:
    full["models"][4]["latency_ms"]["threads"] = 8
    teacher, exported = facts.model_named(full, "teacher"), facts.model_named(full, "exported")
    assert exported is not None
    assert facts.speedup(exported, teacher) is None
    assert "faster" not in headline(full)


def test_headline(full: dict[str, Any]) -> None:
    assert headline(full) == (
        "A model of 13.4 MB, 20 times smaller than its teacher (SmolLM2-135M-Instruct, prompted), answers 17 times "
        "faster and gets 87.1 % of the test set right (teacher 86.8 %, control 85.1 %)."
    )


def test_headline_admits_slower_and_larger(full: dict[str, Any]) -> None:
    full["models"][4]["bytes"] = 538_121_104
    full["models"][4]["latency_ms"]["p50"] = 182.0
    full["metric"]["name"] = "macro_f1"
    said = headline(full)
    assert "2.0 times larger" in said
    assert "2.0 times slower" in said
    assert "87.1 % macro F1" in said


def test_verdict(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    assert verdict_line(full) == (
        "BEATS: student over control, +2.3 points [0.4, 4.2], n = 1000 "
        "(paired bootstrap over test examples, 10000 resamples, 95 %)."
    )
    assert "the teacher's hard labels" in verdict_meaning(full)
    assert verdict_line(minimal) == "No verdict: nothing was compared."
    assert verdict_meaning(minimal) == ""


def test_assistants_stand_between_teacher_and_control() -> None:
    names = ("dense_2", "exported", "dense", "student", "another", "control", "assistant", "assistant_2", "teacher")
    found = [model.name for model in facts.models({"models": [{"name": name} for name in names]})]
    models = ["teacher", "assistant", "assistant_2", "control", "student", "exported", "dense_2", "dense", "another"]
    assert found == models
