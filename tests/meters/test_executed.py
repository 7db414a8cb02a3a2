from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.meters.executed import executed
from attar.meters.latency_graphs import attention, convolution, linear

INPUTS, OUTPUTS, TOKENS = 64, 128, 5


def _ran(content: bytes, folder: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    path = folder / "graph.onnx"
    path.write_bytes(content)
    return executed(path, {"x": np.full(shape, 0.5, np.float32)}).to_json()


@pytest.mark.parametrize(
    ("precision", "operator", "name", "bits"),
    [
        ("float32", "MatMul", "float32", 32 * 32),
        ("int8", "DynamicQuantizeMatMul", "int8", 8 * 8),
        ("nbits4", "MatMulNBits", "int4 x int8", 4 * 8),
        ("nbits8", "MatMulNBits", "int8", 8 * 8),
    ],
)
def test_products_are_counted_in_what_they_run_in(
    precision: Any, operator: str, name: str, bits: int, tmp_path: Path
) -> None:
    content, copies = linear(INPUTS, OUTPUTS, precision)
    macs = copies * TOKENS * INPUTS * OUTPUTS
    assert _ran(content, tmp_path, (TOKENS, INPUTS)) == {
        "executed_precision": {name: 1.0},
        "macs": macs,
        "bit_operations": macs * bits,
        "executed_operators": {operator: copies},
    }


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_convolutions_by_hand(kind: Any, int8: bool, tmp_path: Path) -> None:
    channels, size = 16, 6
    content, copies = convolution(channels, size, kind, int8)
    ran = _ran(content, tmp_path, (1, channels, size, size))
    per_output = {"1x1": channels, "3x3": 9 * channels, "depthwise": 9}[kind]
    assert ran["macs"] == copies * channels * size * size * per_output
    assert ran["executed_precision"] == ({"int8": 1.0} if int8 else {"float32": 1.0})


def test_a_mixed_graph_is_told_in_shares_of_its_multiply_adds(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights = {"w": np.ones((INPUTS, OUTPUTS), np.float32), "v": np.ones((INPUTS, 3), np.int8)}
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["y"]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "v", "qz"], ["i"]),
    ]
    outputs = [("y", TensorProto.FLOAT), ("i", TensorProto.INT32)]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", INPUTS])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    ran = _ran(model.SerializeToString(), tmp_path, (TOKENS, INPUTS))
    assert ran["macs"] == TOKENS * INPUTS * (OUTPUTS + 3)
    assert ran["bit_operations"] == TOKENS * INPUTS * (OUTPUTS * 32 * 32 + 3 * 8 * 8)
    assert ran["executed_precision"] == {"float32": 0.9771, "int8": 0.0229}


def test_attention_multiplies_activations(tmp_path: Path) -> None:
    content, _ = attention(2)
    ran = _ran(content, tmp_path, (TOKENS, 128))
    assert ran["macs"] == 2 * TOKENS * TOKENS * 128
