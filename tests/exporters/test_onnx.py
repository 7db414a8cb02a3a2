from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.onnx import OnnxExporter
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification


def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_text_answers_agree_in_any_batch_and_length(text_graph: tuple[Any, Path], texts: Examples) -> None:
    model, path = text_graph
    session = _session(path)
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for places in ([0], [1, 5], list(range(8))):
        batch = TextClassification().collate(model, texts.take(np.array(places)))
        with torch.no_grad():
            said = model.module(**batch.inputs).logits.numpy()
        assert np.abs(session.run(None, {k: v.numpy() for k, v in batch.inputs.items()})[0] - said).max() < 1e-5


@pytest.mark.parametrize("time", [1, 2, 32])
def test_the_shortest_and_the_longest_text(time: int, text_graph: tuple[Any, Path]) -> None:
    model, path = text_graph
    tokens = torch.arange(time)[None] + 5
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        said = model.module(input_ids=tokens, attention_mask=mask).logits.numpy()
    found = _session(path).run(None, {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})[0]
    assert np.abs(found - said).max() < 1e-5


def test_the_graph_is_one_file(text_graph: tuple[Any, Path], image_graph: tuple[Any, Path]) -> None:
    for _, path in (text_graph, image_graph):
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_graph_names_no_file_of_this_machine(text_graph: tuple[Any, Path], image_graph: tuple[Any, Path]) -> None:
    for _, path in (text_graph, image_graph):
        content = path.read_bytes()
        assert b".py" not in content
        assert b"torch/nn" not in content


@pytest.mark.parametrize("count", [1, 5])
def test_image_answers_agree(count: int, image_graph: tuple[Any, Path], images: Callable[..., Examples]) -> None:
    model, path = image_graph
    batch = ImageClassification().collate(model, images(count, seed=1))
    with torch.no_grad():
        said = model.module(batch.inputs["pixel_values"]).numpy()
    found = _session(path).run(None, {"pixel_values": batch.inputs["pixel_values"].numpy()})[0]
    assert np.abs(found - said).max() < 1e-4


def test_a_multilayer_perceptron(net: Callable[..., Any], images: Callable[..., Examples], tmp_path: Path) -> None:
    model = net(dropout=0.5)
    model.module.train()
    OnnxExporter().export(model, tmp_path / "m.onnx")
    batch = ImageClassification().collate(model, images(3))
    with torch.no_grad():
        said = model.module.eval()(batch.inputs["pixel_values"]).numpy()
    found = _session(tmp_path / "m.onnx").run(None, {"pixel_values": batch.inputs["pixel_values"].numpy()})[0]
    assert np.abs(found - said).max() < 1e-5


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(pixels).mean(dim=(2, 3))  # an operator that ONNX has not

    model = Model(Odd(), "net", None, {"shape": [2, 4, 4]})
    with pytest.raises(AttarError, match="The net model cannot be exported to ONNX"):
        OnnxExporter().export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
