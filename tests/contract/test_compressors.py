"""Run every compressor through what it promises: it says where it works, and what it leaves loads without attar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar import catalog
from attar.core.compressing import Calibration, GraphCalibration
from attar.core.nouns import Plan
from attar.students import folder
from attar.tasks.text_classification import TextClassification

NAMES = sorted(catalog.TABLES["compressor"])
AT = {place: [name for name in NAMES if catalog.entry("compressor", name).at == place] for place in ("model", "export")}
OWN_FORM = {"channels", "low_rank"}
"""Steps whose own tests load their results: of images, and of factors."""
SETTINGS: dict[str, dict[str, Any]] = {"depth": {"ratio": 0.5}, "width": {"mlp": 0.5}, "weights": {"group": 16}}
"""The fewest settings of steps that ask for some."""


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_and_for_what_it_works(name: str) -> None:
    kind = catalog.entry("compressor", name)
    assert kind.at in ("model", "export")
    assert kind.tasks
    assert kind.tasks <= set(catalog.TABLES["task"])
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert callable(kind.apply)
    assert kind.precision if kind.at == "export" else callable(kind.legal)


def test_every_tasks_default_compression_fits_it() -> None:
    for name in catalog.TABLES["task"]:
        task = catalog.entry("task", name)
        assert task.name == name
        for step in task.default_compression:
            assert name in catalog.entry("compressor", step).tasks


@pytest.mark.parametrize("name", sorted(set(AT["model"]) - OWN_FORM))
def test_a_compressed_model_loads_in_plain_transformers(
    name: str, text_student: Any, texts: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kind = catalog.entry("compressor", name)
    calibration = Calibration(TextClassification(), texts, texts.inputs)
    model, plan = kind(kind.Settings(**SETTINGS.get(name, {}))).apply(text_student, calibration)
    _holds(plan, name)
    folder.save(model, tmp_path)
    plain, words = AutoModelForSequenceClassification.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = words(list(texts.inputs), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(plain(**inputs).logits, model.module.eval()(**inputs).logits, atol=1e-6)


@pytest.mark.parametrize("name", AT["export"])
def test_a_compressed_graph_loads_in_plain_onnxruntime(
    name: str, text_graph: tuple[Any, Path], image_graph: tuple[Any, Path], tmp_path: Path
) -> None:
    import onnxruntime

    kind = catalog.entry("compressor", name)
    source = text_graph[1] if "text-classification" in kind.tasks else image_graph[1]
    tokens = {"input_ids": np.arange(5, 11)[None], "attention_mask": np.ones((1, 6), np.int64)}
    pixels = {"pixel_values": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
    feeds = [tokens if "text-classification" in kind.tasks else pixels]
    plan = kind(kind.Settings()).apply(source, tmp_path / "small.onnx", GraphCalibration(feeds))
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
