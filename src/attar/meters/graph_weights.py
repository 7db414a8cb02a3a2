"""Tell the weights of an ONNX graph from all else that it holds, and count them in whatever type they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DYNAMIC, DEQUANTIZE, FEW_BITS, LOOK_UP = (
    "DynamicQuantizeLinear",
    "DequantizeLinear",
    "MatMulNBits",
    "GatherBlockQuantized",
)
GRIDS = {
    DEQUANTIZE: (1, 2),
    "QuantizeLinear": (1, 2),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    FEW_BITS: (2, 3),
    LOOK_UP: (2, 3),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
}
"""Operator -> places of its inputs that hold scales and zero points."""
CODES = {DEQUANTIZE: (0, 2), "MatMulInteger": (1, 3), "DynamicQuantizeMatMul": (1, 3)}
"""Operator -> places of the codes, and of the zero point that stands for 0."""


@dataclass(frozen=True)
class Weights:
    """Hold what was counted.

    Args:
        count: weights; scales and zero points are none.
        stored_bits: bits that hold them, with their scales and zero points.
        nonzero: how many of the weights are not 0.
    """

    count: int
    stored_bits: int
    nonzero: int


def count_weights(path: Path) -> Weights:
    """Count the weights of a graph; the files beside it that hold some are read too."""
    return _Graph(path).count()


class _Graph:
    def __init__(self, path: Path) -> None:
        import onnx

        graph = onnx.load(str(path)).graph
        self.nodes = list(graph.node)
        self.types = {one.name: one.data_type for one in graph.initializer}
        self.values: dict[str, np.ndarray] = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        self.grids = set(self._grids())
        products_last = sorted(self.nodes, key=lambda node: node.op_type == FEW_BITS)  # they know the zero points
        self.users = {name: node for node in products_last for name in node.input[:2]}

    def count(self) -> Weights:
        """Return the sums over all initializers."""
        count = stored = nonzero = 0
        for name, values in self.values.items():
            if name in self.grids:
                stored += self._bits(name)
            elif self._is_weight(name):
                stored += self._bits(name)
                held, zeros = self._weights(name, values)
                count += held
                nonzero += held - zeros
        return Weights(count, stored, nonzero)

    def _bits(self, name: str) -> int:
        """Return the bits of an initializer as they are stored: 4-bit types lie two in a byte."""
        import onnx

        four = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
        values = self.values[name]
        return int(values.size) * (4 if self.types[name] in four else values.dtype.itemsize * 8)

    def _is_weight(self, name: str) -> bool:
        """Tell weights from the integers and single numbers that a graph computes shapes and constants with."""
        values = self.values[name]
        whole_numbers = values.dtype in (np.int64, np.int32, np.bool_)
        codes = any(node.op_type == DEQUANTIZE and node.input[0] == name for node in self.nodes)
        return values.size > 1 and (codes or not whole_numbers)

    def _grids(self) -> Iterator[str]:
        """Yield the names of scales and zero points, also of those that are given another shape first."""
        reshaped = {node.output[0]: node.input[0] for node in self.nodes if node.op_type == "Unsqueeze"}
        scales = {node.output[1] for node in self.nodes if node.op_type == DYNAMIC}  # found at run time
        for node in self.nodes:
            names = [node.input[place] for place in GRIDS.get(node.op_type, ()) if place < len(node.input)]
            yield from (reshaped.get(name, name) for name in names)
            if node.op_type == "Mul" and scales.intersection(node.input):
                yield from set(node.input) - scales

    def _weights(self, name: str, values: np.ndarray) -> tuple[int, int]:
        """Return how many weights an initializer holds, and how many of them are 0."""
        user = self.users.get(name)
        if user is not None and user.op_type in (FEW_BITS, LOOK_UP):
            return self._packed(user, values)
        zero = self._zero(name, values) if values.dtype.kind != "f" else 0
        return int(values.size), int(np.count_nonzero(values == zero))

    def _packed(self, user: Any, values: np.ndarray) -> tuple[int, int]:
        """Return the same of codes of few bits, of which several may lie in a byte."""
        settings = {one.name: one.i for one in user.attribute}
        bits = int(settings.get("bits", 4))
        codes = _unpacked(values, bits)
        given = user.input[3] if user.op_type == FEW_BITS and len(user.input) > 3 else ""
        if given not in self.values:
            return int(codes.size), int(np.count_nonzero(codes == 1 << (bits - 1)))
        groups = codes.shape[1]
        zero = _unpacked(self.values[given].reshape(len(codes), -1), bits)[:, :groups, None]
        return int(codes.size), int(np.count_nonzero(codes == zero))

    def _zero(self, name: str, values: np.ndarray) -> np.ndarray | int:
        """Return the codes that stand for 0, in a shape that fits."""
        for node in self.nodes:
            code, zero = CODES.get(node.op_type, (0, 0))
            if not zero or node.input[code] != name or len(node.input) <= zero or node.input[zero] not in self.values:
                continue
            point: np.ndarray = self.values[node.input[zero]]
            if node.op_type == DEQUANTIZE and point.size > 1:
                axis = next((one.i for one in node.attribute if one.name == "axis"), 1) % values.ndim
                return point.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
            return point
        return 0


def _unpacked(values: np.ndarray, bits: int) -> np.ndarray:
    """Return codes one a number, along the last axis; of two in a byte the first is the lower."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)
