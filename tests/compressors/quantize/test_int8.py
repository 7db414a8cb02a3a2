from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attar.compressors.quantize import dynamic_int8, int8
from attar.compressors.quantize.dynamic_int8 import DynamicInt8
from attar.compressors.quantize.processor import saturates
from attar.compressors.quantize.quiet import quiet_quantizer
from attar.compressors.quantize.static_int8 import StaticInt8
from attar.core.compressing import GraphCalibration
from attar.core.examples import Examples
from attar.errors import AttarError
from attar.tasks.image_classification import normalize
from attar.tasks.text_classification import TextClassification

NOTHING = GraphCalibration()


def _run(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0])


def _probabilities(scores: np.ndarray) -> np.ndarray:
    exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def _weights(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(str(path)).graph.initializer if len(tensor.dims) > 1}


def _operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


def _pixels(images: Examples) -> GraphCalibration:
    pixels = normalize(np.asarray(images.inputs), 0.5, 0.5)
    return GraphCalibration([{"pixel_values": one[None]} for one in pixels])


def _spoiled(source: Path, target: Path, value: float) -> Path:
    """Write a graph with one number of its last matrix or filter exchanged."""
    model = onnx.load(str(source))
    tensor = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1 and tensor.data_type == 1][-1]
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(target))
    return target


def _without_weights(target: Path) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("pixel_values", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["pixel_values"], ["logits"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(target))
    return target


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_agrees_on_the_whole_and_is_smaller(
    per_channel: bool, text_graph: tuple[Any, Path], texts: Examples, tmp_path: Path
) -> None:
    model, path = text_graph
    step = DynamicInt8(DynamicInt8.Settings(per_channel=per_channel))
    plan = step.apply(path, tmp_path / "int8.onnx", NOTHING)
    assert plan.after["bytes"] == (tmp_path / "int8.onnx").stat().st_size < plan.before["bytes"] == path.stat().st_size
    batch = TextClassification().collate(model, texts)
    feed = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
    both = [_probabilities(_run(graph, feed)) for graph in (path, tmp_path / "int8.onnx")]
    assert np.abs(both[0] - both[1]).max() < 0.05
    assert not np.array_equal(*both)
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]


def test_dynamic_stores_every_matrix_as_int8(text_graph: tuple[Any, Path], tmp_path: Path) -> None:
    DynamicInt8(DynamicInt8.Settings()).apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= _operators(tmp_path / "int8.onnx")
    assert TensorProto.FLOAT not in _weights(tmp_path / "int8.onnx").values()


def test_dynamic_leaves_named_layers_in_float(text_graph: tuple[Any, Path], tmp_path: Path) -> None:
    step = DynamicInt8(DynamicInt8.Settings(keep=["query", "*.1.output.dense", "word_embeddings"]))
    plan = step.apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    floats = {name for name, kind in _weights(tmp_path / "int8.onnx").items() if kind == TensorProto.FLOAT}
    layer = "inner.bert.encoder.layer"
    assert floats == {
        f"{layer}.0.attention.self.query.weight",
        f"{layer}.1.attention.self.query.weight",
        f"{layer}.1.output.dense.weight",
        "inner.bert.embeddings.word_embeddings.weight",
    }
    assert "bert.encoder.layer.*.attention.self.query (2)" in plan.notes[0]


def test_a_name_that_fits_nothing_is_told_with_near_ones(text_graph: tuple[Any, Path], tmp_path: Path) -> None:
    step = DynamicInt8(DynamicInt8.Settings(keep=["querry"]))
    with pytest.raises(
        AttarError, match=r"'querry', which fits no layer.*bert\.encoder\.layer\.\*\.attention\.self\.query"
    ):
        step.apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    with pytest.raises(AttarError, match="leaves no layer to quantize"):
        DynamicInt8(DynamicInt8.Settings(keep=["*"])).apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    assert list(tmp_path.iterdir()) == []


def test_dynamic_refuses_convolutions(image_graph: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="Use static_int8"):
        DynamicInt8(DynamicInt8.Settings()).apply(image_graph[1], tmp_path / "int8.onnx", NOTHING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reduces", [True, False])
def test_weights_have_seven_bits_where_products_overflow(
    reduces: bool, text_graph: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "saturates", lambda: reduces)
    plan = DynamicInt8(DynamicInt8.Settings()).apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    tensors = onnx.load(str(tmp_path / "int8.onnx")).graph.initializer
    name = "inner.bert.encoder.layer.0.output.dense.weight_quantized"
    values = next(numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == name)
    assert np.abs(values.astype(int)).max() in ((63, 64) if reduces else (127, 128))
    assert any("7 bits" in note for note in plan.notes) == reduces
    forced = DynamicInt8.Settings(reduce_range=not reduces)
    assert forced.reduces is not reduces


def test_a_processor_is_known_by_its_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for flags, overflows in {"avx2": True, "avx2 avx_vnni": False, "avx512_vnni": False, "amx_int8": False}.items():
        facts.write_text(f"flags : fpu {flags}\n", encoding="utf-8")
        assert saturates(facts) is overflows
    facts.write_text("flags : fpu avx2\n", encoding="utf-8")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not saturates(facts)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_agrees_mostly(
    method: str, image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    path = image_graph[1]
    step = StaticInt8(StaticInt8.Settings(method=method, examples=16))
    plan = step.apply(path, tmp_path / "int8.onnx", _pixels(images(64)))
    test = images(60, seed=5)
    feed = {"pixel_values": normalize(np.asarray(test.inputs), 0.5, 0.5)}
    plain, small = _run(path, feed).argmax(1), _run(tmp_path / "int8.onnx", feed).argmax(1)
    assert (plain == test.labels).mean() > 0.9
    assert (plain == small).mean() > 0.9
    assert plan.notes[0] == f"calibrated ({method}) on 16 training examples"
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_one_example_gives_every_range(
    method: str, image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    step = StaticInt8(StaticInt8.Settings(method=method))
    plan = step.apply(image_graph[1], tmp_path / "int8.onnx", _pixels(images(1)))
    assert plan.notes[0] == f"calibrated ({method}) on 1 training example"
    assert np.isfinite(_run(tmp_path / "int8.onnx", dict(_pixels(images(1)).feeds[0]))).all()


def test_no_example_and_one_that_is_no_number_are_refused(
    image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    step = StaticInt8(StaticInt8.Settings())
    with pytest.raises(AttarError, match="there are none"):
        step.apply(image_graph[1], tmp_path / "int8.onnx", NOTHING)
    spoiled = GraphCalibration([{"pixel_values": np.full((1, 1, 8, 8), np.nan, np.float32)}])
    with pytest.raises(AttarError, match="no number"):
        step.apply(image_graph[1], tmp_path / "int8.onnx", spoiled)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("keep", "floats"), [([], 0), ("last", 1), ("first_last", 2), (["features.3"], 1)])
def test_static_leaves_ends_in_float(
    keep: Any, floats: int, image_graph: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    step = StaticInt8(StaticInt8.Settings(keep=keep))
    found = [tensor.name for tensor in onnx.load(str(image_graph[1])).graph.initializer if len(tensor.dims) > 1]
    if keep == ["features.3"]:
        step = StaticInt8(StaticInt8.Settings(keep=[found[1].removeprefix("inner.").removesuffix(".weight")]))
    step.apply(image_graph[1], tmp_path / "int8.onnx", _pixels(images(4)))
    assert list(_weights(tmp_path / "int8.onnx").values()).count(TensorProto.FLOAT) == floats


def test_static_quantizes_the_products_of_texts_alone(text_graph: tuple[Any, Path], tmp_path: Path) -> None:
    feed = {"input_ids": np.arange(5, 11)[None], "attention_mask": np.ones((1, 6), np.int64)}
    StaticInt8(StaticInt8.Settings(keep=[])).apply(text_graph[1], tmp_path / "int8.onnx", GraphCalibration([feed] * 3))
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    read = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    eaters = {node.op_type for node in graph.node if read & set(node.input)}
    assert eaters <= {"MatMul", "Gemm", "Sum"}  # a sum reads what the product beside it does
    assert np.abs(_run(tmp_path / "int8.onnx", feed) - _run(text_graph[1], feed)).max() < 0.1


@pytest.mark.parametrize("kind", [DynamicInt8, StaticInt8])
def test_graphs_with_nothing_to_do_are_refused(
    kind: Any, text_graph: tuple[Any, Path], image_graph: tuple[Any, Path], images: Any, tmp_path: Path
) -> None:
    source = text_graph[1] if kind is DynamicInt8 else image_graph[1]
    step, calibration, target = kind(kind.Settings()), _pixels(images(2)), tmp_path / "twice.onnx"
    step.apply(source, tmp_path / "once.onnx", calibration)
    with pytest.raises(AttarError, match="quantized already"):
        step.apply(tmp_path / "once.onnx", target, calibration)
    with pytest.raises(AttarError, match="no numbers"):
        step.apply(_spoiled(source, tmp_path / "nan.onnx", np.nan), target, calibration)
    with pytest.raises(AttarError, match="infinite"):
        step.apply(_spoiled(source, tmp_path / "infinite.onnx", np.inf), target, calibration)
    with pytest.raises(AttarError, match="nothing to quantize"):
        step.apply(_without_weights(tmp_path / "empty.onnx"), target, calibration)
    assert not target.exists()


def test_a_step_that_dies_leaves_no_file(
    text_graph: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", dies)
    with pytest.raises(OSError, match="disk full"):
        dynamic_int8.DynamicInt8(DynamicInt8.Settings()).apply(text_graph[1], tmp_path / "int8.onnx", NOTHING)
    assert list(tmp_path.iterdir()) == []


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
