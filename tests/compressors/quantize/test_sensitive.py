"""One layer of a graph is spoiled for int8 by an outlier: it, and no other, must be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attar.compressors.quantize.dynamic_int8 import DynamicInt8
from attar.compressors.quantize.graph import Layer
from attar.compressors.quantize.sensitive import answers, hold
from attar.core.compressing import GraphCalibration
from attar.errors import AttarError

WIDTH = 32
HURT = "inner.layers.2.down.weight"


def _graph(path: Path) -> Path:
    """Write four blocks ``x + down(up(x))``; one channel of what block 2's down projection reads is huge."""
    random = np.random.Generator(np.random.PCG64(0))
    nodes, tensors, states = [], [], "pixel_values"
    for block in range(4):
        up = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 6
        down = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 6
        if block == 2:
            up[:, 0] *= 3000  # a scale for the whole row leaves nothing of the other channels
            down[0] = 0
        for kind, matrix in (("up", up), ("down", down)):
            tensors.append(numpy_helper.from_array(matrix, f"inner.layers.{block}.{kind}.weight"))
        weights = [f"inner.layers.{block}.{kind}.weight" for kind in ("up", "down")]
        nodes += [
            helper.make_node("MatMul", [states, weights[0]], [f"u{block}"], f"up{block}"),
            helper.make_node("MatMul", [f"u{block}", weights[1]], [f"d{block}"], f"down{block}"),
            helper.make_node("Add", [states, f"d{block}"], [f"s{block}"], f"add{block}"),
        ]
        states = f"s{block}"
    nodes.append(helper.make_node("Identity", [states], ["logits"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("pixel_values", "logits")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _graph(tmp_path / "float32.onnx")


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.Generator(np.random.PCG64(1))
    return [{"pixel_values": random.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(200)]


def _floats(path: Path) -> set[str]:
    return {
        tensor.name
        for tensor in onnx.load(str(path)).graph.initializer
        if len(tensor.dims) > 1 and tensor.data_type == 1
    }


def test_auto_leaves_the_spoiled_layer_alone_in_float(source: Path, feeds: Any, tmp_path: Path) -> None:
    step = DynamicInt8(DynamicInt8.Settings(keep="auto", floor=0.1))
    plan = step.apply(source, tmp_path / "int8.onnx", GraphCalibration(feeds))
    assert _floats(tmp_path / "int8.onnx") == {HURT}
    assert "1 of 8 in float32: layers.2.down" in plan.notes[0]
    before, plain, held = (
        np.concatenate(answers(path, feeds))
        for path in (source, _plain(source, tmp_path / "plain.onnx"), tmp_path / "int8.onnx")
    )
    lost = [float((said.argmax(1) != before.argmax(1)).mean()) for said in (plain, held)]
    assert lost[1] <= 0.1 < 0.3 < lost[0]


def _plain(source: Path, target: Path) -> Path:
    DynamicInt8(DynamicInt8.Settings()).apply(source, target, GraphCalibration())
    return target


def test_the_judge_decides_where_there_is_one(source: Path, feeds: Any, tmp_path: Path) -> None:
    asked = []

    def judge(path: Path) -> float:
        asked.append(path)
        return 1.0

    step = DynamicInt8(DynamicInt8.Settings(keep="auto"))
    plan = step.apply(source, tmp_path / "int8.onnx", GraphCalibration(feeds, judge))
    assert _floats(tmp_path / "int8.onnx") == set()
    assert len(asked) == 2
    assert "none had to stay in float32" in plan.notes[0]


def test_a_floor_that_nothing_holds_is_refused(source: Path, feeds: Any, tmp_path: Path) -> None:
    def judge(path: Path) -> float:
        return 1.0 if len(_floats(path)) == 8 else 0.0

    step = DynamicInt8(DynamicInt8.Settings(keep="auto"))
    with pytest.raises(AttarError, match="no layer that can be quantized"):
        step.apply(source, tmp_path / "int8.onnx", GraphCalibration(feeds, judge))
    with pytest.raises(AttarError, match="there are none"):
        step.apply(source, tmp_path / "int8.onnx", GraphCalibration())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["float32.onnx"]


def test_few_graphs_are_made_and_no_more_layers_kept_than_needed() -> None:
    layers = [Layer(f"{kind}{block}", f"l.{block}.{kind}", "MatMul") for block in range(16) for kind in ("a", "b", "c")]
    harm = {layer.node: 0.001 for layer in layers} | {"b3": 0.5, "b7": 0.4, "b9": 0.3, "a2": 0.01}
    built = []

    class Judged:
        def lost(self, path: Any) -> float:
            return sum(value for node, value in harm.items() if node not in path)

        damage = lost

    def build(keep: frozenset[str]) -> Any:
        built.append(keep)
        return keep

    found = hold(layers, build, Judged(), 0.06)  # type: ignore[arg-type]
    assert found.keep == {"b3", "b7", "b9"}
    assert len(built) <= 1 + 3 + 1 + 16 + 4 + 1
    assert "l.*.b (3)" in found.notes[0]
