"""Tables for the terminal, and the refusal to compare what is not comparable."""

from __future__ import annotations

import copy
from typing import Any

from rich.console import Console
from rich.table import Table

from attar.report.compare import compare_rows
from attar.report.tables import compare_table, models_table, prompts_table, runs_table


def _shown(table: Table, width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _changes(first: dict[str, Any], second: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row.model, row.measure): row.change for row in compare_rows(first, second).rows}


def test_models_table(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    text = _shown(models_table(full))
    assert "87.1 % [85.0, 89.1]" in text
    assert "17.2×" in text
    assert "teacher *" in text
    assert "student *" not in text
    assert "–" in _shown(models_table(minimal))
    assert "model" in _shown(models_table({}))


def test_a_narrow_terminal_loses_columns_not_digits(full: dict[str, Any]) -> None:
    text = _shown(models_table(full, width=80), width=80)
    assert "87.1 % [85.0, 89.1]" in text
    assert "FLOPs" not in text
    assert "…" not in text
    assert "BEATS" in _shown(runs_table([full], width=80), width=80)


def test_brackets_of_a_user_are_no_markup(full: dict[str, Any]) -> None:
    full["prompt"]["teacher"]["tried"][0]["words"] = ["[bold]bad[/bold]", "good"]
    assert "[bold]bad[/bold], good" in _shown(prompts_table(full))


def test_prompts_table(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    full["prompt"]["teacher"]["tried"].reverse()
    lines = [line for line in _shown(prompts_table(full)).splitlines() if "ask-" in line]
    assert len(lines) == 14
    assert lines[0].rstrip().endswith("won")
    assert "raced out after 48" in lines[-1]
    assert prompts_table(minimal).row_count == 0


def test_runs_table(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    text = _shown(runs_table([full, minimal, {}]))
    assert "BEATS" in text
    assert "11 min 5 s" in text
    assert runs_table([]).row_count == 0


def test_equal_conditions_are_compared(full: dict[str, Any]) -> None:
    other = copy.deepcopy(full)
    other["name"] = "smaller"
    other["models"][4] |= {"bytes": 6_706_172, "quality": {"value": 0.861, "low": 0.84, "high": 0.88}}
    other["models"][4]["latency_ms"]["p50"] = 2.645
    changes = _changes(full, other)
    assert changes["exported", "bytes"] == "0.50×"
    assert changes["exported", "p50"] == "0.50×"
    assert changes["exported", "quality"] == "−1.0 points"
    assert compare_rows(full, other).notes == ()


def test_latencies_of_different_machines_are_refused_with_both_values(full: dict[str, Any]) -> None:
    other = copy.deepcopy(full)
    other["name"] = "elsewhere"
    other["conditions"]["processor"] = "Intel Xeon"
    assert _changes(full, other)["exported", "p50"] == "–"
    assert _changes(full, other)["exported", "bytes"] == "1×"
    (note,) = compare_rows(full, other).notes
    assert "processor is AMD EPYC 7B13 in reviews and Intel Xeon in elsewhere" in note
    text = _shown(compare_table(full, other))
    assert "Intel Xeon" in text
    assert "5.29 ms" in text


def test_threads_batch_length_and_version_are_conditions(full: dict[str, Any]) -> None:
    for key, value in (("threads", 4), ("batch", 32), ("length", 128)):
        other = copy.deepcopy(full)
        other["models"][4]["latency_ms"][key] = value
        assert _changes(full, other)["exported", "p50"] == "–"
        assert _changes(full, other)["student", "p50"] == "1×"
        (note,) = compare_rows(full, other).notes
        assert f"and {value} in" in note
    other = copy.deepcopy(full)
    other["models"][4]["runtime"] = "onnxruntime 1.40.0"
    assert "onnxruntime is 1.31.1 in reviews (1) and 1.40.0 in reviews (2)" in compare_rows(full, other).notes[0]
    other["models"][4]["runtime"] = "torch 2.14.1"
    assert _changes(full, other)["exported", "p50"] == "1×"


def test_qualities_of_different_tests_are_refused(full: dict[str, Any]) -> None:
    other = copy.deepcopy(full)
    other["metric"]["name"] = "macro_f1"
    other["examples"]["test"] = 500
    assert _changes(full, other)["exported", "quality"] == "–"
    (note,) = compare_rows(full, other).notes
    assert "metric is accuracy in reviews (1) and macro_f1 in reviews (2)" in note
    assert "test examples is 1000" in note


def test_a_model_of_one_run_alone_is_shown(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    changes = _changes(minimal, full)
    assert changes["teacher", "bytes"] == "–"
    assert ("exported", "p50") in changes
