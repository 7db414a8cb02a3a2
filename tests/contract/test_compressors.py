"""Run every compressor through what it promises: it says where it works, and what it leaves loads without attar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar import catalog
from attar.core.nouns import Plan
from attar.students import folder

NAMES = sorted(catalog.TABLES["compressor"])


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_and_for_what_it_works(name: str) -> None:
    kind = catalog.entry("compressor", name)
    assert kind.at in ("model", "export")
    assert kind.tasks
    assert kind.tasks <= set(catalog.TABLES["task"])
    assert isinstance(kind.needs_calibration, bool)
    if kind.at == "export":
        assert kind.precision


def test_every_tasks_default_compression_fits_it() -> None:
    for name in catalog.TABLES["task"]:
        task = catalog.entry("task", name)
        assert task.name == name
        for step in task.default_compression:
            assert name in catalog.entry("compressor", step).tasks


@pytest.mark.parametrize("name", [n for n in NAMES if catalog.entry("compressor", n).at == "model"])
def test_a_compressed_model_loads_in_plain_transformers(
    name: str, text_student: Any, texts: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kind = catalog.entry("compressor", name)
    model, plan = kind(kind.Settings()).apply(text_student, texts.inputs[:3])
    _holds(plan, name)
    folder.save(model, tmp_path)
    plain, words = AutoModelForSequenceClassification.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = words(list(texts.inputs), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(plain(**inputs).logits, model.module.eval()(**inputs).logits, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if catalog.entry("compressor", n).at == "export"])
def test_a_compressed_graph_loads_in_plain_onnxruntime(
    name: str, text_graph: tuple[Any, Path], image_graph: tuple[Any, Path], tmp_path: Path
) -> None:
    import onnxruntime

    kind = catalog.entry("compressor", name)
    source = text_graph[1] if "text-classification" in kind.tasks else image_graph[1]
    calibration = np.zeros((4, 1, 8, 8), np.float32) + np.linspace(-1, 1, 4, dtype=np.float32)[:, None, None, None]
    plan = kind(kind.Settings()).apply(source, tmp_path / "small.onnx", calibration if kind.needs_calibration else None)
    _holds(plan, name)
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    before = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [i.name for i in before.get_inputs()]
    assert [o.name for o in session.get_outputs()] == ["logits"]


def _holds(plan: Plan, name: str) -> None:
    assert plan.step == name
    assert plan.before.keys() == plan.after.keys()
    assert plan.before
    assert all(isinstance(value, (int, float)) for value in [*plan.before.values(), *plan.after.values()])
