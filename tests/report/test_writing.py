"""Reports of models that write: names, columns, verdicts, samples, curves, and a teacher that was only asked."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from rich.console import Console

from attar.report.advice import advise
from attar.report.card import card
from attar.report.cells import columns, model_cells, perplexity_note
from attar.report.compare import compare_rows
from attar.report.facts import color, dominated, models, writes
from attar.report.html import render
from attar.report.plots import figures
from attar.report.tables import models_table
from attar.report.words import headline, verdict_line, verdict_meaning
from attar.report.writing import SHOWN, gap_lines, perplexity_line, samples, spent_line

ASKED = ("name", "title", "quality", "ece", "agreement", "confusion")
"""What is known of a teacher behind a server."""


def _row(name: str, rouge: float, perplexity: float, size: int, wait: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"the {name}",
        "quality": {"value": rouge, "low": rouge - 0.01, "high": rouge + 0.01, "n": 500},
        "perplexity": {"value": perplexity, "low": perplexity - 1, "high": perplexity + 1, "n": 500, "tokens": 2900},
        "exact_match": {"value": 0.04, "low": 0.02, "high": 0.06, "n": 500},
        "agreement": 0.3,
        "tokens_per_second": 1234.5,
        "parameters": 1000,
        "flops": 2000,
        "bytes": size,
        "latency_ms": {"p10": 1.0, "p50": wait, "p90": 9.0, "batch": 1, "threads": 2, "n": 5, "device": "cpu"},
        **more,
    }


@pytest.fixture
def written() -> dict[str, Any]:
    """Return the summary of a run of models that write."""
    steps = [{"step": 10 * i, "loss": 3.0 / i, "validation": 0.1 * i, "validation_loss": 4.0 / i} for i in (1, 2, 3)]
    shares = [{**row, "share of forward_kl": 0.6, "share of hidden": 0.4} for row in steps]
    return {
        "schema": 1,
        "name": "titles",
        "task": "text-generation",
        "metric": {"name": "rouge_l", "higher_is_better": True},
        "control_learns_from": "gold labels",
        "models": [
            _row("teacher", 0.25, 20.0, 500_000_000, 400.0),
            _row("control", 0.20, 40.0, 250_000_000, 200.0),
            _row("student", 0.23, 30.0, 250_000_000, 200.0),
            _row("exported", 0.23, 30.0, 250_000_000, 100.0),
        ],
        "curves": {"teacher": steps, "control": steps, "student": shares},
        "verdict": {
            "claim": "student over control",
            "metric": "rouge_l",
            "result": "BEATS",
            "difference": 0.03,
            "low": 0.01,
            "high": 0.05,
            "n": 500,
            "perplexity": {
                "result": "BEATS",
                "unit": "nats a token",
                "value": 0.29,
                "low": 0.2,
                "high": 0.38,
                "n": 500,
            },
            "gap_recovered": {"rouge_l": 0.6, "log_perplexity": 0.415},
        },
        "samples": [
            {"input": "a <b>warm</b> jacket", "gold": "Warm", "teacher": "Warm", "student": "Soft", "exported": "Soft"},
            {"input": "x" * 2000, "gold": "Long", "teacher": "", "student": "Long"},
        ],
    }


def _with_server(summary: dict[str, Any]) -> dict[str, Any]:
    teacher = {key: value for key, value in summary["models"][0].items() if key in ASKED}
    return {**summary, "models": [{**teacher, "ece": 0.1, "confusion": [[3]]}, *summary["models"][1:]]}


def test_metrics_have_the_names_that_people_use(written: dict[str, Any]) -> None:
    assert headline(written) == (
        "A model of 250 MB, 2.0 times smaller than its teacher (the teacher), answers 4.0 times faster and reaches "
        "23.0 % ROUGE-L on the test set (teacher 25.0 %, control 20.0 %)."
    )
    assert verdict_line(written) == "BEATS: student over control, +3.0 points [1.0, 5.0] on ROUGE-L, n = 500."
    assert verdict_meaning(written).endswith("that learns from gold texts.")
    for page in (render(written), card(written)):
        assert "rouge l" not in page.lower()
        assert "ROUGE-L" in page


def test_models_that_write_have_more_columns_and_others_do_not(written: dict[str, Any], full: dict[str, Any]) -> None:
    assert list(columns(written)) == [
        *("quality", "perplexity", "exact_match", "bytes", "smaller", "p50", "faster", "tokens_per_second"),
        *("parameters", "flops", "rss", "precision"),
    ]
    assert not {"perplexity", "exact_match", "tokens_per_second"} & set(columns(full))
    cells = model_cells(written)[2]
    assert (cells["perplexity"], cells["exact_match"]) == ("30.0 [29.0, 31.0]", "4.0 % [2.0, 6.0]")
    assert cells["tokens_per_second"] == "1,234"
    assert writes(written)
    assert not writes(full)


def test_the_card_has_the_columns_and_says_what_a_bundle_needs(written: dict[str, Any]) -> None:
    text = card(written)
    assert "| model | ROUGE-L | perplexity ↓ | exact match | size |" in text
    assert "| exported (the exported) | 23.0 % [22.0, 24.0] | 30.0 [29.0, 31.0] | 4.0 % [2.0, 6.0] | 250 MB |" in text
    assert yaml.safe_load(text.split("---\n")[1])["metrics"] == ["rouge", "perplexity"]
    assert "PyTorch and transformers" in text
    final = next(model for model in written["models"] if model["name"] == "exported")
    final["runtime"] = "onnxruntime 1.32.0"
    assert "It writes with onnxruntime, without PyTorch." in card(written)
    assert "without PyTorch" not in text
    assert "one of its labels" not in text
    assert "+0.29 nats a token [0.20, 0.38]" in text


def test_a_narrow_terminal_keeps_rouge_and_perplexity_whole(written: dict[str, Any]) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(models_table(written, width=80))
    said = capture.get()
    assert re.search(r"student \* +23\.0 % \[22\.0, 24\.0\] +30\.0 \[29\.0, 31\.0\] +250 MB", said)
    assert "GFLOPs" not in said


def test_the_verdict_on_perplexity(written: dict[str, Any], full: dict[str, Any]) -> None:
    assert perplexity_line(written) == (
        "Perplexity: BEATS, +0.29 nats a token [0.20, 0.38] in log-likelihood (above 0 the student is better), n = 500."
    )
    found = written["verdict"]["perplexity"]
    found |= {"result": "INCONCLUSIVE", "value": 0.001, "low": -0.002, "high": 0.0041}
    assert "+0.001 nats a token [−0.002, 0.004]" in perplexity_line(written)
    assert perplexity_line(full) == ""
    assert gap_lines(full) == []


def test_the_gap_recovered_on_both_measures(written: dict[str, Any]) -> None:
    said = "Of the gap between control and teacher the student recovered 60.0 % on ROUGE-L, 41.5 % on log perplexity."
    assert gap_lines(written) == [said]
    written["verdict"]["gap_recovered"]["rouge_l"] = None
    assert gap_lines(written) == [said.replace("60.0 % on ROUGE-L, ", "")]


def test_a_share_of_a_gap_that_may_be_chance_is_not_to_be_read(written: dict[str, Any]) -> None:
    teacher, control = written["models"][:2]
    control["quality"] = {"value": 0.235, "low": 0.229, "high": 0.241, "n": 500}
    assert gap_lines(written)[1:] == [
        "Do not read the share on ROUGE-L: the intervals of teacher and control overlap, so the gap itself may be "
        "chance."
    ]
    control["perplexity"] = teacher["perplexity"]
    assert gap_lines(written)[1].startswith("Do not read the share on ROUGE-L or on log perplexity: the intervals")
    assert len(gap_lines(written)) == 2


def test_a_share_of_a_gap_the_wrong_way_round_is_not_to_be_read(written: dict[str, Any]) -> None:
    teacher, control = written["models"][:2]
    teacher["perplexity"], control["perplexity"] = control["perplexity"], teacher["perplexity"]
    (warning,) = gap_lines(written)[1:]
    assert warning.startswith("Do not read the share on log perplexity: the teacher is worse than the control")
    teacher["perplexity"] = {**teacher["perplexity"], "tokens": 3100}
    (warning,) = gap_lines(written)[1:]
    assert "into different tokens" in warning


def test_perplexities_of_other_tokens_are_named(written: dict[str, Any]) -> None:
    assert perplexity_note(written) == ""
    written["models"][0]["perplexity"]["tokens"] = 3100
    said = "the gold texts are 3,100 tokens to teacher; 2,900 to control, student, exported"
    assert said in perplexity_note(written)
    assert said in render(written)
    assert said in card(written)


def test_a_worse_perplexity_keeps_a_model_from_dominating(written: dict[str, Any]) -> None:
    assert set(dominated(models(written))) == {"control", "student"}
    written["models"][3]["perplexity"]["value"] = 35.0
    assert set(dominated(models(written))) == {"control"}
    written["models"][1]["perplexity"]["tokens"] = 3100
    assert dominated(models(written)) == {}


def test_samples_stand_with_their_gold_text_and_equal_texts_together(written: dict[str, Any]) -> None:
    first, second = samples(written)
    assert (first.given, first.gold) == ("a <b>warm</b> jacket", "Warm")
    assert first.texts == [(("teacher",), "Warm"), (("student", "exported"), "Soft")]
    assert len(second.given) == SHOWN
    assert second.given.endswith("…")
    assert second.texts[0] == (("teacher",), "(nothing)")
    page = render(written)
    assert "What the models write" in page
    assert "a &lt;b&gt;warm&lt;/b&gt; jacket" in page
    assert "What the models write" not in render({**written, "samples": []})


@pytest.mark.parametrize("odd", [None, 3, "text", [None, 3], [{}], [{"input": None, "student": None}]])
def test_odd_samples_break_nothing(written: dict[str, Any], odd: object) -> None:
    assert "</html>" in render({**written, "samples": odd})


def test_validation_is_of_tokens_where_models_write(written: dict[str, Any], full: dict[str, Any]) -> None:
    made = figures(written)
    assert made["validation"].layout.yaxis.title.text == "token accuracy, %"
    assert made["validation"].data[0].y == pytest.approx((10, 20, 30))
    assert made["validation_loss"].data[0].y == pytest.approx((4, 2, 4 / 3))
    assert made["quality_bytes"].layout.yaxis.title.text == "ROUGE-L, %"
    assert figures(full)["validation"].layout.yaxis.title.text == "accuracy, %"
    assert "validation_loss" not in figures(full)
    assert "Token accuracy on validation" in render(written)
    assert "Quality on validation" in render(full)


def test_shares_of_several_objectives_are_plotted(written: dict[str, Any], full: dict[str, Any]) -> None:
    traces = figures(written)["shares"].data
    assert [(trace.name, trace.y) for trace in traces] == [
        ("forward_kl", pytest.approx((60, 60, 60))),
        ("hidden", pytest.approx((40, 40, 40))),
    ]
    written["curves"]["assistant"] = written["curves"]["student"]
    names = [trace.name for trace in figures(written)["shares"].data]
    assert names == ["student: forward_kl", "student: hidden", "assistant: forward_kl", "assistant: hidden"]
    assert "shares" not in figures(full)


def test_a_teacher_that_was_only_asked_has_dashes(written: dict[str, Any], full: dict[str, Any]) -> None:
    for summary in (_with_server(written), _with_server(full)):
        for cells in model_cells(summary):
            assert (cells["smaller"], cells["faster"]) == ("–", "–")
        teacher = model_cells(summary)[0]
        assert {teacher[key] for key in ("bytes", "p50", "parameters", "flops", "rss", "precision")} == {"–"}
        assert headline(summary).startswith(f"A model of {model_cells(summary)[-1]['bytes']} ")
        assert "times" not in headline(summary)
        assert "whose size and time are not known" in render(summary)
        assert "| – |" in card(summary)
        assert isinstance(advise(summary), list)
        assert compare_rows(summary, summary).notes == ()
        console = Console(width=100)
        console.print(models_table(summary, width=100))


def test_what_asking_cost_is_one_line(written: dict[str, Any]) -> None:
    assert spent_line({**written, "record": None}) == ""
    spent = {"calls": 64, "input_tokens": 5120, "output_tokens": 640, "dollars": 0.0125, "unsure_calls": 2}
    summary = {**written, "record": {"examples": 60, "spent": spent}}
    said = "60 examples, 64 calls, 5,120 tokens read and 640 written, 0.0125 dollars, 2 calls whose cost is not known"
    assert spent_line(summary) == said
    assert said in render(summary)
    assert said in card(summary)


def test_assistants_have_their_own_looks_and_place(written: dict[str, Any]) -> None:
    made = [_row("assistant", 0.24, 24.0, 300_000_000, 300.0), _row("assistant_2", 0.23, 26.0, 280_000_000, 250.0)]
    summary = {**written, "models": [*written["models"], *made]}
    names = [cells["name"] for cells in model_cells(summary)]
    assert names == ["teacher", "assistant", "assistant_2", "control", "student", "exported"]
    assert len({color(name) for name in names}) == 6
    assert len({trace.marker.symbol for trace in figures(summary)["quality_bytes"].data}) == 6


def test_two_runs_are_compared_in_all_that_writing_is_measured_by(written: dict[str, Any]) -> None:
    other = copy.deepcopy(written)
    other["name"] = "longer"
    other["models"][2]["perplexity"]["value"] = 15.0
    other["models"][2]["exact_match"]["value"] = 0.05
    other["models"][2]["tokens_per_second"] = 2469.0
    other["models"][0]["perplexity"]["tokens"] = 3100
    found = compare_rows(written, other)
    changes = {(row.model, row.measure): row.change for row in found.rows}
    assert changes["student", "ROUGE-L"] == "+0.0 points"
    assert changes["student", "perplexity ↓"] == "0.50×"
    assert changes["student", "exact match"] == "+1.0 points"
    assert changes["student", "tokens/s"] == "2.00×"
    assert changes["teacher", "perplexity ↓"] == "–"
    assert found.notes == ("Perplexity of teacher is not compared: it is of other tokens.",)
    other["conditions"] = {"processor": "another"}
    changes = {(row.model, row.measure): row.change for row in compare_rows(written, other).rows}
    assert changes["student", "tokens/s"] == "–"
    other["examples"] = {"test": 3}
    changes = {(row.model, row.measure): row.change for row in compare_rows(written, other).rows}
    assert changes["student", "perplexity ↓"] == changes["student", "exact match"] == "–"


def test_advice_speaks_of_texts_where_models_write(written: dict[str, Any]) -> None:
    written["models"][1]["quality"]["value"] = 0.25
    written["verdict"] |= {"result": "INCONCLUSIVE", "low": -0.02}
    assert any("the gold texts suffice" in one.text for one in advise(written))


def test_every_part_may_be_missing(written: dict[str, Any]) -> None:
    for key in written:
        assert "</html>" in render({name: value for name, value in written.items() if name != key})
    for key in list(written["models"][0]):
        for row in written["models"]:
            row.pop(key)
        assert "</html>" in render(written)
        assert card(written).startswith("---")
