"""Make small ONNX graphs of one kind of layer, to be timed: linear layers, convolutions, the rest of a transformer.

Weights are constants: how long a product takes does not depend on their values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Precision = Literal["float32", "int8", "nbits4", "nbits8"]
"""How a linear layer runs: float32; dynamic int8; weights of 4 or 8 bits in groups, activations rounded to int8."""
Kind = Literal["1x1", "3x3", "depthwise"]

GROUP = 32
"""Weights that share a scale, of 4 and 8 bits."""
HEAD = 64
"""Width of one head of attention."""
FAR = 16 << 20
COPIES = 32
"""A layer is repeated with weights of its own, up to so many bytes and copies: a model's next layer lies in no cache
that is near."""
OPSET, MICROSOFT, IR = 21, "com.microsoft", 10


def linear(inputs: int, outputs: int, precision: Precision) -> tuple[bytes, int]:
    """Return a graph of linear layers that read the same ``x (tokens, inputs)``, and how many there are."""
    size = {"float32": 4.0, "int8": 1.0, "nbits8": 1.0, "nbits4": 0.5}[precision] * inputs * outputs
    copies = int(min(COPIES, max(1, FAR // size)))
    nodes: list[Any] = []
    weights: dict[str, np.ndarray] = {}
    for place in range(copies):
        node, own = _linear(f"{place}", inputs, outputs, precision)
        nodes.append(node)
        weights |= own
    return _graph(nodes, weights, ("tokens", inputs), [f"y{place}" for place in range(copies)]), copies


def _linear(name: str, inputs: int, outputs: int, precision: Precision) -> tuple[Any, dict[str, np.ndarray]]:
    from onnx import helper

    if precision == "float32":
        weight = np.full((inputs, outputs), 0.01, np.float32)
        return helper.make_node("MatMul", ["x", f"w{name}"], [f"y{name}"]), {f"w{name}": weight}
    if precision == "int8":
        quantized: dict[str, np.ndarray] = {
            f"w{name}": np.ones((inputs, outputs), np.int8),
            f"s{name}": np.full(outputs, 0.01, np.float32),
            f"z{name}": np.zeros(outputs, np.int8),
        }
        return helper.make_node("DynamicQuantizeMatMul", ["x", *quantized], [f"y{name}"], domain=MICROSOFT), quantized
    bits, groups = int(precision.removeprefix("nbits")), -(-inputs // GROUP)
    packed: dict[str, np.ndarray] = {
        f"w{name}": np.full((outputs, groups, GROUP * bits // 8), 0x99, np.uint8),
        f"s{name}": np.full(outputs * groups, 0.01, np.float32),
    }
    sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": GROUP, "accuracy_level": 4}
    return helper.make_node("MatMulNBits", ["x", *packed], [f"y{name}"], domain=MICROSOFT, **sizes), packed


def convolution(channels: int, size: int, kind: Kind, int8: bool) -> tuple[bytes, int]:
    """Return a graph of convolutions in a row that keep ``x (1, channels, size, size)``, and how many there are.

    In int8, quantize–dequantize pairs stand around each, which the runtime fuses into one int8 kernel.
    """
    from onnx import helper

    width, per_group = (1 if kind == "1x1" else 3), (1 if kind == "depthwise" else channels)
    shape = (channels, per_group, width, width)
    copies = int(min(COPIES, max(2, FAR // (math.prod(shape) * (1 if int8 else 4)))))
    weights: dict[str, np.ndarray] = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8)} if int8 else {}
    nodes, last = [], "x"

    def around(value: str) -> str:
        """Put a value through a quantization and back, and return its new name."""
        for kind_of_node, ending in (("QuantizeLinear", "q"), ("DequantizeLinear", "d")):
            nodes.append(helper.make_node(kind_of_node, [value, "s", "z"], [f"{value}{ending}"]))
            value += ending
        return value

    last = around(last) if int8 else last
    for place in range(copies):
        name = f"w{place}"
        weights[name] = np.ones(shape, np.int8) if int8 else np.full(shape, 0.01, np.float32)
        if int8:
            weights |= {f"{name}s": np.full(channels, 0.01, np.float32), f"{name}z": np.zeros(channels, np.int8)}
            nodes.append(helper.make_node("DequantizeLinear", [name, f"{name}s", f"{name}z"], [f"{name}d"], axis=0))
        settings = {"pads": [width // 2] * 4, "group": channels // per_group}
        nodes.append(helper.make_node("Conv", [last, f"{name}d" if int8 else name], [f"y{place}"], **settings))
        last = around(f"y{place}") if int8 else f"y{place}"
    return _graph(nodes, weights, (1, channels, size, size), [last]), copies


def attention(heads: int) -> tuple[bytes, int]:
    """Return a graph of the attention of a transformer's block, in float32, and 1: it is there once.

    Its ``x (tokens, heads x 64)`` are queries, keys and values in one. Weights of few bits do not change it.
    """
    weights: dict[str, np.ndarray] = {
        "apart": np.array([-1, heads, HEAD], np.int64),
        "flat": np.array([-1, heads * HEAD], np.int64),
        "scale": np.array(0.125, np.float32),
        "bias": np.zeros(heads * HEAD, np.float32),
    }
    nodes = [
        *(_node("Add", ("x", "bias"), f"{part}_biased") for part in "qkv"),
        *(_node("Reshape", (f"{part}_biased", "apart"), f"{part}_heads") for part in "qkv"),
        *(_node("Transpose", (f"{part}_heads",), part, perm=[1, 2, 0] if part == "k" else [1, 0, 2]) for part in "qkv"),
        _node("MatMul", ("q", "k"), "raw"),
        _node("Mul", ("raw", "scale"), "scores"),
        _node("Softmax", ("scores",), "shares", axis=-1),
        _node("MatMul", ("shares", "v"), "mixed"),
        _node("Transpose", ("mixed",), "back", perm=[1, 0, 2]),
        _node("Reshape", ("back", "flat"), "y"),
    ]
    return _graph(nodes, weights, ("tokens", heads * HEAD), ["y"]), 1


def between(width: int) -> tuple[bytes, int]:
    """Return a graph of what is done with each number between linear layers, in float32, and 1: it is there once.

    Two sums with a norm of ``x (tokens, width)``, and an activation of four times the width.
    """
    weights = {
        "gain": np.ones(width, np.float32),
        "bias": np.zeros(width, np.float32),
        "wide": np.zeros(4 * width, np.float32),
    }
    nodes = [
        _node("Add", ("x", "bias"), "first"),
        _node("LayerNormalization", ("first", "gain", "bias"), "normed", axis=-1),
        _node("Concat", ["normed"] * 4, "four", axis=-1),
        _node("Add", ("four", "wide"), "high"),
        _node("Gelu", ("high",), "active", domain=MICROSOFT),
        _node("Add", ("normed", "first"), "second"),
        _node("LayerNormalization", ("second", "gain", "bias"), "y", axis=-1),
    ]
    return _graph(nodes, weights, ("tokens", width), ["y", "active"]), 1


def _node(kind: str, inputs: Sequence[str], output: str, **settings: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, list(inputs), [output], **settings)


def _graph(nodes: Sequence[Any], weights: Mapping[str, np.ndarray], shape: Sequence[int | str], names: Any) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        list(nodes),
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString())
