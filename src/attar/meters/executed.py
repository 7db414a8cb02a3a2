"""See what an ONNX graph really runs as: the operators that the runtime's optimizations leave, and their precision."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from attar.meters.bit_operations import Product, bit_operations, shares

PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "TransposeMatMul", "MatMulNBits"}
PRODUCTS_INT8 = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"}
CONVOLUTIONS = {"Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"}
ATTENTION = {("com.microsoft", "MultiHeadAttention"), ("com.microsoft", "GroupQueryAttention"), ("", "Attention")}
INT8 = PRODUCTS_INT8 | {"ConvInteger", "QLinearConv"}
WEIGHT_PLACE = {"QLinearConv": 3}
BITS = {"float": 32, "float16": 16, "bfloat16": 16, "double": 64}
BY_INT8 = 4
"""The accuracy level at which a product of few-bit weights rounds its activations to int8."""


@dataclass(frozen=True)
class Executed:
    """Hold what one call of a graph ran.

    Args:
        products: its matrix products and convolutions.
        operators: operator -> how often it ran, all operators.
    """

    products: tuple[Product, ...]
    operators: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return shares of multiply-adds by precision, multiply-adds, bit operations and the products' operators."""
        named = Counter(one.operator for one in self.products)
        return {
            "executed_precision": shares(self.products),
            "macs": sum(one.macs for one in self.products),
            "bit_operations": bit_operations(self.products),
            "executed_operators": dict(named.most_common()),
        }


def executed(path: Path, feed: Mapping[str, np.ndarray], threads: int = 1) -> Executed:
    """Run a graph once under the runtime's profiler.

    The graph is saved as the runtime optimizes it and run again from there, each node under a name of its own: that
    joins what the profiler saw (types and shapes) with what the nodes say of themselves (weights, bits).

    Args:
        path: the ONNX graph.
        feed: its inputs.
        threads: of the runtime.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        graph = _optimized(path, folder, threads)
        nodes = {node.name: node for node in graph.node}
        ran = [(nodes[name], seen) for name, seen in _profile(folder, feed, threads) if name in nodes]
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    for node in graph.node:  # where the runtime does not fuse it, a product reads what this made of the weight
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    products = [found for node, seen in ran if (found := _product(node, seen, weights)) is not None]
    return Executed(tuple(products), dict(Counter(node.op_type for node, _ in ran).most_common()))


def _optimized(path: Path, folder: Path, threads: int) -> Any:
    """Save a graph as the runtime optimizes it, with every node named, and return it without its weights."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(folder / "optimized.onnx"), load_external_data=False)
    for place, node in enumerate(model.graph.node):
        node.name = f"node{place}"
    onnx.save(model, str(folder / "named.onnx"))
    return model.graph


def _profile(folder: Path, feed: Mapping[str, np.ndarray], threads: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the name of each node that ran, in order, with the types and shapes it saw."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    path = str(folder / "named.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(feed))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ending = "_kernel_time"
    return [
        (str(event["name"]).removesuffix(ending), event["args"])
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith(ending)
    ]


def _product(node: Any, seen: Mapping[str, Any], weights: Mapping[str, Sequence[int]]) -> Product | None:
    """Return a node's product; None for a node that multiplies no matrices."""
    outputs = [shape for one in seen["output_type_shape"] for shape in one.values()]
    inputs = [(kind, shape) for one in seen["input_type_shape"] for kind, shape in one.items()]
    settings = {one.name: one.i for one in node.attribute}
    kind = node.op_type
    own = BITS.get(inputs[0][0], 32) if inputs else 32
    if kind in CONVOLUTIONS:
        filters = weights[node.input[WEIGHT_PLACE.get(kind, 1)]]
        macs = prod(outputs[0]) * prod(filters[1:])
    elif kind in PRODUCTS | PRODUCTS_INT8:
        macs = prod(outputs[0]) * inputs[0][1][-2 if settings.get("transA") else -1]
    elif (node.domain, kind) in ATTENTION:
        source = outputs[1] if kind == "GroupQueryAttention" else inputs[1][1]  # what was said before counts
        macs = 2 * prod(outputs[0]) * source[-2]
    else:
        return None
    if kind == "MatMulNBits":
        return Product(kind, macs, settings.get("bits", 4), 8 if settings.get("accuracy_level") == BY_INT8 else own)
    return Product(kind, macs, *((8, 8) if kind in INT8 else (own, own)))
