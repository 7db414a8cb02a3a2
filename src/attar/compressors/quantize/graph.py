"""Read which layers of an exported graph can be quantized, and refuse graphs that cannot."""

from __future__ import annotations

import difflib
import fnmatch
import re
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import AttarError

WEIGHT_PLACES: Mapping[str, int] = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Attention": 1, "Gather": 0}
"""Operator -> which of its inputs is the weight."""
QUANTIZED = re.compile(r"Quantize|Integer|NBits|BlockQuantized|^QLinear|^Q(Attention|Gemm|EmbedLayer|MoE)")
"""Operators that only a quantized graph has."""


@dataclass(frozen=True)
class Layer:
    """Name an operator with a weight of its own.

    Args:
        node: the operator's name in the graph.
        weight: name of its weight in the graph.
        operator: what it does, such as ``MatMul``.

    Example:
        >>> layer = Layer("node_linear_3", "inner.model.layers.0.mlp.down_proj.weight", "MatMul")
        >>> layer.name, layer.kind
        ('model.layers.0.mlp.down_proj', 'model.layers.*.mlp.down_proj')
        >>> Layer("node_linear_3", "val_17", "MatMul").name  # the exporter lost the weight's name
        'node_linear_3'
    """

    node: str
    weight: str
    operator: str

    @property
    def name(self) -> str:
        """Return the name of the module it was, or the operator's where the export kept none."""
        name = self.weight.removeprefix("inner.").removesuffix(".weight")
        return name if "." in self.weight else self.node

    @property
    def kind(self) -> str:
        """Return the name without its numbers: layers of one kind lie at the same place of each block."""
        return re.sub(r"\d+", "*", self.name)

    def is_named(self, pattern: str) -> bool:
        """Tell whether a pattern with ``*`` fits one of its names, or is a part of it between dots."""
        whole = any(fnmatch.fnmatchcase(name, pattern) for name in (self.node, self.weight, self.name))
        return whole or f".{pattern}." in f".{self.name}."


def read_float(path: Path, step: str) -> Any:
    """Return the model of an ONNX file, its weights inside.

    Raises:
        AttarError: it is quantized already, or holds what is no number.
    """
    import onnx

    model = onnx.load(str(path))
    quantized = sorted({node.op_type for node in model.graph.node if QUANTIZED.search(node.op_type)})
    if quantized:
        raise AttarError(
            f"{step} got a graph that is quantized already (it has {', '.join(quantized)}); a graph is quantized once. "
            "Keep one of the steps."
        )
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise AttarError(f"{step} got weights that are no numbers (NaN in {tensor.name}). Train the model again.")
    return model


def layers(model: Any, operators: Container[str], step: str) -> list[Layer]:
    """Return the layers of a graph that have a weight of their own, in the order they run.

    Args:
        model: an ONNX model.
        operators: which operators count.
        step: who asks.

    Raises:
        AttarError: there is none, or a weight is infinite.
    """
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    found = []
    for node in model.graph.node:
        place = WEIGHT_PLACES.get(node.op_type, 0)
        if node.op_type not in operators or len(node.input) <= place:
            continue
        tensor = weights.get(node.input[place])
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        if not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            raise AttarError(f"{step} got an infinite weight in {tensor.name}. Train the model again.")
        found.append(Layer(node.name, tensor.name, node.op_type))
    if not found:
        raise AttarError(f"{step} found nothing to quantize: the graph has no float32 weight of a matrix or filter.")
    return found


def named(patterns: Sequence[str], found: Sequence[Layer]) -> frozenset[str]:
    """Return the operators of the layers that patterns name.

    Raises:
        AttarError: a pattern fits no layer.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        fits = {layer.node for layer in found if layer.is_named(pattern)}
        if not fits:
            raise AttarError(f"keep names {pattern!r}, which fits no layer. {_near(pattern, found)}")
        chosen |= fits
    return frozenset(chosen)


def _near(pattern: str, found: Sequence[Layer]) -> str:
    """Return a sentence with the names that look most like a pattern, each kind of layer once."""
    kinds = list(dict.fromkeys(layer.kind for layer in found))
    word = pattern.replace("*", "")
    ranked = sorted(kinds, key=lambda kind: -_likeness(word, kind))
    return f"Layers are named like {', '.join(ranked[:5])}."


def _likeness(word: str, kind: str) -> float:
    return max(difflib.SequenceMatcher(None, word, part).ratio() for part in (kind, *kind.split(".")))


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Give a folder beside a file to be written; it is gone after the block, whatever happened."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as name:
        yield Path(name)
