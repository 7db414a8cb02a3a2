"""Runs reuse what is stored, go on after a kill to the same end, and leave nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attar import api
from attar.errors import AttarError
from attar.pipeline.check import check
from attar.pipeline.load import load_recipe
from attar.store.journal import Journal
from attar.store.lock import hold

STAGES = ("data", "teacher", "record", "control", "student", "compress", "export", "measure")
TIMES = {"seconds", "latency_ms", "load_seconds", "peak_rss_bytes", "loaded_rss_bytes", "against", "grid", "date"}


@pytest.fixture
def cache(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the tiny run's store, which the test uses as its cache."""
    shutil.copytree(tiny_run / "cache", tmp_path / "cache", dirs_exist_ok=True)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def comparable(value: Any) -> Any:
    """Return a summary without times, memory and the date."""
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items() if key not in TIMES}
    return [comparable(inner) for inner in value] if isinstance(value, list) else value


def _done(folder: Path, reused: bool) -> list[str]:
    events = Journal(folder / "journal.jsonl").events("stage-done")
    return [event["stage"] for event in events if event["reused"] is reused]


def _summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_a_run_leaves_its_folder_whole(tiny_run: Path) -> None:
    folder = tiny_run / "runs" / "tiny"
    names = {path.name for path in folder.iterdir()}
    assert names == {*(".lock", "recipe.yaml", "journal.jsonl", "summary.json", "report.html", "README.md", "bundle")}
    assert _done(folder, reused=False) == list(STAGES)
    summary = _summary(folder)
    assert summary["schema"] == 1
    assert [model["name"] for model in summary["models"]] == ["teacher", "control", "student", "compressed", "exported"]
    assert summary["verdict"]["result"] in ("BEATS", "NO BEATS", "INCONCLUSIVE")
    assert [part["stage"] for part in summary["pipeline"]] == list(STAGES)
    assert not list((tiny_run / "cache" / "work").iterdir())


def test_a_second_run_repeats_nothing_and_says_the_same(tiny_run: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    result = api.run(tiny_run / "tiny.yaml", folder)
    assert _done(folder, reused=True) == list(STAGES)
    assert _done(folder, reused=False) == []
    first = comparable(_summary(tiny_run / "runs" / "tiny"))
    assert comparable(_summary(folder)) == first
    assert result.summary["models"] == _summary(tiny_run / "runs" / "tiny")["models"]  # latencies, too


def test_the_recipe_in_a_runs_folder_is_the_same_job(tiny_run: Path, cache: Path) -> None:
    recipe, base = load_recipe(str(tiny_run / "runs" / "tiny"))
    assert all(stage.stored for stage in check(recipe, base).stages)


def test_another_objective_reuses_data_teacher_record_and_control(tiny_run: Path, cache: Path) -> None:
    recipe, base = load_recipe(str(tiny_run / "tiny.yaml"), {"distill.objective": "cross_entropy"})
    stored = [stage.name for stage in check(recipe, base).stages if stage.stored]
    assert stored == ["data", "teacher", "record", "control"]


def test_a_damaged_result_is_refused_and_made_anew_when_removed(tiny_run: Path, cache: Path, tmp_path: Path) -> None:
    damaged = next(cache.glob("artifacts/compress-*"))
    (damaged / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(AttarError, match="is damaged"):
        api.run(tiny_run / "tiny.yaml", tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    shutil.rmtree(damaged)
    api.run(tiny_run / "tiny.yaml", tmp_path / "run")
    assert _done(tmp_path / "run", reused=False) == ["compress"]


def test_a_run_that_a_live_process_holds_is_refused(tiny_run: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "held"
    with hold(folder / ".lock", "the run"), pytest.raises(AttarError, match=f"in use by process {os.getpid()}"):
        api.run(tiny_run / "tiny.yaml", folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_mistake_leaves_no_summary(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(AttarError):
        api.run("digits", tmp_path / "run", data__train=5000)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock", "recipe.yaml", "journal.jsonl"}


def _start(recipe: Path, home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ATTAR_CACHE": str(home / "own")}
    command = [sys.executable, "-m", "attar", "run", str(recipe), "--folder", str(home / "run")]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def _kill_in(stage: str, recipe: Path, home: Path, wait: float = 0.0) -> None:
    """Start a run and kill it when it has begun a stage."""
    process = _start(recipe, home)
    end = time.monotonic() + 60
    journal = Journal(home / "run" / "journal.jsonl")
    while not any(event["stage"] == stage for event in journal.events("stage-start")):
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _killed_and_continued(stages: list[tuple[str, float]], recipe: Path, home: Path) -> Any:
    """Kill a run in each of the stages, continue it to its end and return its summary."""
    for stage, wait in stages:
        _kill_in(stage, recipe, home, wait)
        assert not (home / "run" / "summary.json").exists()
    assert _start(recipe, home).wait() == 0
    return _summary(home / "run")


def test_a_killed_run_ends_as_an_undisturbed_one(tiny_run: Path, tmp_path: Path) -> None:
    found = _killed_and_continued([("student", 0.05)], tiny_run / "tiny.yaml", tmp_path)
    assert comparable(found) == comparable(_summary(tiny_run / "runs" / "tiny"))
    assert sorted(_done(tmp_path / "run", reused=False)) == sorted(STAGES)


@pytest.mark.real
def test_a_run_killed_in_every_stage_ends_as_an_undisturbed_one(tiny_run: Path, tmp_path: Path) -> None:
    waits = (0.0, 0.3, 0.1, 0.1, 0.1, 0.0, 0.5, 1.0)
    found = _killed_and_continued(list(zip(STAGES, waits, strict=True)), tiny_run / "tiny.yaml", tmp_path)
    assert comparable(found) == comparable(_summary(tiny_run / "runs" / "tiny"))
    assert sorted(_done(tmp_path / "run", reused=False)) == sorted(STAGES)
