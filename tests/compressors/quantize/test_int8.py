from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from attar.compressors.quantize.dynamic_int8 import DynamicInt8
from attar.compressors.quantize.quiet import quiet_quantizer
from attar.compressors.quantize.static_int8 import StaticInt8
from attar.core.examples import Examples
from attar.errors import AttarError
from attar.tasks.image_classification import normalize
from attar.tasks.text_classification import TextClassification


def _run(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0])


def _probabilities(scores: np.ndarray) -> np.ndarray:
    exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_agrees_on_the_whole_and_is_smaller(
    per_channel: bool, text_graph: tuple[Any, Path], texts: Examples, tmp_path: Path
) -> None:
    model, path = text_graph
    step = DynamicInt8(DynamicInt8.Settings(per_channel=per_channel))
    plan = step.apply(path, tmp_path / "int8.onnx")
    assert plan.after["bytes"] == (tmp_path / "int8.onnx").stat().st_size < plan.before["bytes"] == path.stat().st_size
    batch = TextClassification().collate(model, texts)
    feed = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
    both = [_probabilities(_run(graph, feed)) for graph in (path, tmp_path / "int8.onnx")]
    assert np.abs(both[0] - both[1]).max() < 0.05
    assert not np.array_equal(*both)


def test_dynamic_stores_weights_as_int8(text_graph: tuple[Any, Path], tmp_path: Path) -> None:
    import onnx

    DynamicInt8(DynamicInt8.Settings()).apply(text_graph[1], tmp_path / "int8.onnx")
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {node.op_type for node in graph.node}
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)


def test_dynamic_refuses_convolutions(image_graph: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="Use static_int8"):
        DynamicInt8(DynamicInt8.Settings()).apply(image_graph[1], tmp_path / "int8.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_agrees_mostly(
    method: str, image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, path = image_graph
    pixels = normalize(np.asarray(images(64).inputs), model.facts["mean"], model.facts["std"])
    plan = StaticInt8(StaticInt8.Settings(method=method, examples=16)).apply(path, tmp_path / "int8.onnx", pixels)
    test = images(60, seed=5)
    feed = {"pixel_values": normalize(np.asarray(test.inputs), 0.5, 0.5)}
    plain, small = _run(path, feed).argmax(1), _run(tmp_path / "int8.onnx", feed).argmax(1)
    assert (plain == test.labels).mean() > 0.9
    assert (plain == small).mean() > 0.9
    assert plan.notes == (f"calibrated ({method}) on 16 training examples",)
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_static_calibrates_on_what_there_is(
    image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    pixels = normalize(np.asarray(images(4).inputs), 0.5, 0.5)
    plan = StaticInt8(StaticInt8.Settings()).apply(image_graph[1], tmp_path / "int8.onnx", pixels)
    assert plan.notes == ("calibrated (minmax) on 4 training examples",)


def test_quiet_gives_the_level_back_after_an_error() -> None:
    before = logging.getLogger().level
    levels = []

    def fails() -> None:
        with quiet_quantizer():
            levels.append(logging.getLogger().level)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert levels == [logging.ERROR]
    assert logging.getLogger().level == before
