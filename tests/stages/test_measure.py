"""What measuring makes of workers' answers, with every model loaded in this process; one test starts real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.core.nouns import Model
from attar.exporters.bundle import write_card
from attar.exporters.onnx import OnnxExporter
from attar.meters.grid import GridSettings
from attar.stages import measure, worker
from attar.stages.measure import Contender, measure_files
from attar.students import folder


class Here:
    """Answer as a worker does, in this process."""

    opened: ClassVar[list[Here]] = []

    def __init__(self, spec: Path) -> None:
        self._desk, self.ready = worker.load(json.loads(spec.read_text()))
        self.asked: list[str] = []
        Here.opened.append(self)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Answer, by way of JSON as a process would."""
        self.asked.append(request["do"])
        return dict(json.loads(json.dumps(self._desk.answer(request))))

    def close(self) -> None:
        """Nothing is to be ended."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Worker", Here)
    monkeypatch.setattr(measure, "REST", 0.0)
    Here.opened = []


@pytest.fixture
def text_files(text_student: Any, tmp_path: Path) -> list[Contender]:
    """Return a tiny student and its bundle."""
    folder.save(text_student, tmp_path / "student")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    text_student.processor.backend_tokenizer.save(str(bundle / "tokenizer.json"))
    OnnxExporter().export(text_student, bundle / "model.onnx")
    facts = {"task": "text-classification", "labels": ["fine", "bad"], "model": "model.onnx", "precision": "float32"}
    write_card(bundle, {**facts, "input": {"kind": "text", "max_length": 32}})
    return [Contender("student", "student", tmp_path / "student"), Contender("exported", "bundle", bundle)]


def test_a_grid_of_texts_has_a_point_for_each_batch_and_length_that_can_be_read(
    here: None, text_files: list[Contender], texts: Any
) -> None:
    grid = GridSettings(batch=(1, 3), length=(8, 32, 33), rounds=3)  # the student reads 32 tokens
    found = measure_files(text_files, "text-classification", texts, 8, 1, 0, grid)
    for name in ("student", "exported"):
        points = [(point["batch"], point["length"]) for point in found[name]["grid"]]
        assert points == [(1, 8), (3, 8), (1, 32), (3, 32)]
        assert all(0 < point["p50"] <= point["p90"] and point["n"] == 3 for point in found[name]["grid"])
        assert 0 < found[name]["loaded_rss_bytes"] <= found[name]["peak_rss_bytes"]
        assert found[name]["latency_ms"]["n"] == 8
    assert found["student"]["against"] == {}
    assert found["exported"]["against"]["student"]["claim"] in ("faster", "slower", "no difference")
    assert found["exported"]["grid"][0]["against"]["student"]["claim"] == "no difference"  # of three rounds
    assert found["exported"]["executed_precision"] == {"float32": 1.0}
    assert found["exported"]["scores"].shape == (8, 2)
    assert "executed_precision" not in found["student"]


def test_contenders_take_turns_and_watching_comes_last(here: None, text_files: list[Contender], texts: Any) -> None:
    measure_files(text_files, "text-classification", texts, 5, 2, 0, GridSettings(batch=(1,), length=(8,), rounds=4))
    for one in Here.opened:
        assert one.asked.count("time") == 2 + 5
        assert one.asked.count("grid") == 1 + 4
        assert one.asked[-1] == "executed"
        assert one.asked.index("memory") < one.asked.index("grid")  # batches would raise it


def test_without_a_grid_nothing_of_it_is_run(here: None, text_files: list[Contender], texts: Any) -> None:
    found = measure_files(text_files, "text-classification", texts, 5, 0, 0)
    assert found["exported"]["grid"] == []
    assert all("grid" not in one.asked for one in Here.opened)


def test_images_have_batches_alone(
    here: None, net: Callable[..., Model], images: Callable[..., Any], tmp_path: Path
) -> None:
    folder.save(net(), tmp_path)
    grid = GridSettings(batch=(1, 4), length=(16, 64), rounds=3)
    found = measure_files([Contender("student", "student", tmp_path)], "image-classification", images(6), 5, 0, 0, grid)
    assert [(point["batch"], point["length"]) for point in found["student"]["grid"]] == [(1, 1), (4, 1)]


def test_a_model_that_writes_tells_prefill_and_decode_apart(
    here: None, writer: Callable[..., Any], pairs: Any, tmp_path: Path
) -> None:
    folder.save(writer(), tmp_path)
    contenders = [Contender("teacher", "writer", tmp_path, {"precision": "float32"})]
    grid = GridSettings(batch=(1, 2), length=(4, 16), rounds=3)
    found = measure_files(contenders, "text-generation", pairs, 5, 1, 0, grid)["teacher"]
    assert found["prefill_ms"]["p50"] > 0
    assert found["token_ms"]["p90"] >= found["token_ms"]["p50"] > 0
    assert found["latency_ms"]["p50"] > found["prefill_ms"]["p50"]
    assert [(point["batch"], point["length"]) for point in found["grid"]] == [(1, 4), (1, 16)]
    assert all(point["prefill_ms"]["p50"] < point["p50"] for point in found["grid"])


def test_claims_are_made_from_times_of_the_same_rounds() -> None:
    rounds = {
        name: [{"ms": scale * (1 + 0.1 * (place % 3))} for place in range(12)]
        for name, scale in (("teacher", 4.0), ("student", 2.0), ("exported", 1.0))
    }
    said = measure._against("exported", rounds)
    assert {name: one["claim"] for name, one in said.items()} == {"teacher": "faster", "student": "faster"}
    assert said["teacher"]["ratio"] == pytest.approx(0.25)
    assert list(measure._against("student", rounds)) == ["teacher"]


@pytest.mark.real
def test_processes_measure_alike(text_files: list[Contender], texts: Any) -> None:
    grid = GridSettings(batch=(2,), length=(8,), rounds=3)
    found = measure_files(text_files, "text-classification", texts, 5, 1, 0, grid)
    assert found["exported"]["loaded_rss_bytes"] < found["student"]["loaded_rss_bytes"]  # no torch there
    assert len(found["student"]["grid"]) == 1
    assert np.isfinite(found["exported"]["scores"]).all()
