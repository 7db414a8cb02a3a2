"""Store the weights of a quantized model in an ONNX graph as their codes, with onnxruntime's own operators."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.onnx_fusions import constant
from attar.store.files import disk_errors, sync_file, sync_folder

LARGEST = 2**31 - 2**20
"""Bytes that an ONNX file can hold: protobuf's limit, less what stands beside the weights."""
ACCURACY = 4
"""How exactly products are computed by default: 4 rounds their inputs to int8 as they come."""
UNKNOWN = {"q4_1"}
"""Formats whose grids have a minimum instead of a zero that is a code: the operators know none."""
OFF_GRID = 0.05
"""How far from a code a weight may lie, in steps of its group: rounding of float32 alone is far smaller."""


@dataclass(frozen=True)
class Codes:
    """Hold a weight matrix as codes in groups: ``weight = scale * (code - zero)``.

    Args:
        name: the parameter's name.
        bits: 4 or 8, the width a code is stored in.
        codes: ``(out, groups, group)`` uint8.
        scale: ``(out, groups)`` float32.
        zero: ``(out, groups)`` uint8; None where it is the middle of the codes everywhere.
    """

    name: str
    bits: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None

    @property
    def packed(self) -> np.ndarray:
        """Return the codes as bytes ``(out, groups, group * bits / 8)``; of two in a byte the first is the lower."""
        return pack(self.codes, self.bits)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes as bytes along the last axis; an odd number of halves is filled up with 0.

    Example:
        >>> pack(np.array([[1, 2, 3]], np.uint8), 4).tolist()
        [[33, 3]]
    """
    if bits == 8:
        return codes
    even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return np.asarray(even[..., ::2] | even[..., 1::2] << 4, np.uint8)


def codes_of(model: Model) -> dict[str, Codes]:
    """Return the codes of a quantized model's parameters; none for those in `UNKNOWN` formats.

    Args:
        model: ``facts["quantized"]`` says how each parameter was quantized, ``tensors`` holds scales and zeros.

    Raises:
        AttarError: a weight is no longer on its grid, or the grid is none that the operators can read.
    """
    weights = dict(model.module.named_parameters())
    quantized = model.facts.get("quantized", {})
    return {
        name: _codes(name, weights[name].detach().float().cpu().numpy(), facts, model.tensors)
        for name, facts in quantized.items()
        if facts["format"] not in UNKNOWN
    }


def _codes(name: str, weight: np.ndarray, facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> Codes:
    group, bits = int(facts["group"]), 4 if facts["bits"] <= 4 else 8
    out, width = weight.shape
    if facts["bits"] > 8 or group < 16 or group & (group - 1) or width % group:
        raise AttarError(
            f"{name} is quantized to {facts['bits']} bits in groups of {group} of {width}; ONNX stores at most 8 bits, "
            "in groups of a power of two that is at least 16 and divides the width. Quantize with group: 32."
        )
    scale = np.asarray(tensors[f"{name}.scale"], np.float32).reshape(out, width // group)
    given = tensors.get(f"{name}.zero")
    zero = None if given is None else np.asarray(given, np.float32).reshape(scale.shape)
    step = np.where(scale == 0, 1, scale)[..., None]
    exact = weight.reshape(out, -1, group) / step + (2.0 ** (bits - 1) if zero is None else zero[..., None])
    codes = np.rint(exact)
    whole = zero is None or bool((zero == np.rint(zero)).all() and zero.min() >= 0 and zero.max() < 2**bits)
    on_grid = whole and np.abs(exact - codes).max() <= OFF_GRID and codes.min() >= 0 and codes.max() < 2**bits
    if not on_grid:  # NaN is not, either
        raise AttarError(
            f"{name} is no longer on the grid it was quantized to. Put quantization last, and export again."
        )
    return Codes(name, bits, codes.astype(np.uint8), scale, None if zero is None else zero.astype(np.uint8))


def quantize(graph: Any, model: Model, accuracy_level: int = ACCURACY) -> list[str]:
    """Store a quantized model's weights as codes: those of products and of tables that are looked up in.

    A weight is found by its content, so it does not matter what the exporter made of its name, or whether it turned
    it. A table that is also the head (tied weights) is stored once.

    Args:
        graph: a model of `onnx_ir`, changed in place: ``MatMul``, ``Gemm`` and ``Gather`` of a quantized weight become
            ``MatMulNBits`` and ``GatherBlockQuantized``.
        model: the model it was made from.
        accuracy_level: 4 rounds the inputs of products to int8 and is by far the fastest, 1 computes in float32.

    Returns:
        The names of the parameters that were found.

    Raises:
        AttarError: no quantized weight is in the graph, or a weight is not on its grid.
    """
    stored = codes_of(model)
    weights = dict(model.module.named_parameters())
    known = {_digest(weights[name].detach().float().cpu().numpy()): codes for name, codes in stored.items()}
    found = []
    for node in list(graph.graph):
        seen = _weight(node, known)
        if seen is not None:
            replace = _look_up if node.op_type == "Gather" else _multiply
            replace(graph.graph, node, seen, accuracy_level)
            found.append(seen.name)
    if stored and not found:
        raise AttarError("None of the quantized weights is in the graph. Export to ONNX before the graph is changed.")
    graph.opset_imports["com.microsoft"] = 1
    drop_unused(graph)
    return sorted(set(found))


def quantize_file(source: Path, target: Path, model: Model, accuracy_level: int = ACCURACY) -> list[str]:
    """Read the graph ``source``, store a quantized model's weights as codes, and write ``target``.

    Args:
        source: a float32 graph of the model: a classifier's or one that writes.
        target: the file to write; it may be ``source``.
        model: the model it was made from.
        accuracy_level: see `quantize`.

    Returns:
        The names of the parameters that were found.

    Raises:
        AttarError: see `quantize` and `write_graph`.
    """
    import onnx_ir

    graph = onnx_ir.load(str(source))
    found = quantize(graph, model, accuracy_level)
    write_graph(graph, target)
    return found


def set_accuracy(graph: Any, level: int) -> None:
    """Set how exactly all products with quantized weights are computed."""
    import onnx_ir

    for node in graph.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = onnx_ir.AttrInt64("accuracy_level", level)


def drop_unused(graph: Any) -> None:
    """Remove what nothing reads any more: nodes, then weights."""
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(graph)
    for name, value in list(graph.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.graph.initializers[name]


def write_graph(graph: Any, path: Path) -> None:
    """Write a model of `onnx_ir` beside its place as one file, then rename it there.

    Raises:
        AttarError: it is larger than an ONNX file can be, or the disk is full.
    """
    import onnx_ir

    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    if size > LARGEST:
        raise AttarError(
            f"The graph's weights take {size / 1e9:.1f} GB, and an ONNX file holds at most 2.1 GB. Quantize them, or "
            "set export: hf."
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            onnx_ir.save(graph, str(beside))
            sync_file(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def _digest(weight: np.ndarray) -> str:
    content = np.ascontiguousarray(weight, np.float32)
    return f"{content.shape} {hashlib.sha256(content.tobytes()).hexdigest()}"


def _weight(node: Any, known: Mapping[str, Codes]) -> Codes | None:
    """Return the codes of a node's weight if it is known; ``(out, in)`` as torch holds it, turned or not."""
    place = {"MatMul": 1, "Gemm": 1, "Gather": 0}.get(node.op_type)
    value = None if place is None or node.domain else node.inputs[place]
    maker = None if value is None or value.const_value is not None else value.producer()
    turned = maker is not None and maker.op_type == "Transpose"
    if maker is not None and turned:
        value = maker.inputs[0]
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    if node.op_type == "Gather":
        return known.get(_digest(value.const_value.numpy())) if node.attributes.get_int("axis", 0) == 0 else None
    straight = {node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")} == {1.0}
    if not straight or node.attributes.get_int("transA", 0):
        return None
    array = value.const_value.numpy()
    as_stored = turned != bool(node.attributes.get_int("transB", 0))
    return known.get(_digest(array if as_stored else array.T))


def _scales(graph: Any, before: Any, stored: Codes) -> Any:
    """Return the scales in float32; those that float16 holds exactly are stored so, and turned when a session loads."""
    import onnx_ir

    with np.errstate(over="ignore"):
        half = stored.scale.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), stored.scale):
        return constant(graph, f"{stored.name}.scale", stored.scale)
    held = constant(graph, f"{stored.name}.scale", half)
    turned = onnx_ir.node("Cast", [held], {"to": int(onnx_ir.DataType.FLOAT)})
    graph.insert_before(before, turned)
    return turned.outputs[0]


def _multiply(graph: Any, node: Any, stored: Codes, accuracy_level: int) -> None:
    """Put ``MatMulNBits`` in place of a product."""
    import onnx_ir

    out, groups, group = stored.codes.shape
    zero = None if stored.zero is None else pack(stored.zero, stored.bits)
    inputs = [
        node.inputs[0],
        constant(graph, f"{stored.name}.codes", stored.packed),
        _scales(graph, node, stored),
        None if zero is None else constant(graph, f"{stored.name}.zero", zero),
        None,
        node.inputs[2] if len(node.inputs) > 2 else None,
    ]
    numbers = {
        "K": groups * group,
        "N": out,
        "bits": stored.bits,
        "block_size": group,
        "accuracy_level": accuracy_level,
    }
    _replace(graph, node, onnx_ir.node("MatMulNBits", inputs, numbers, domain="com.microsoft"))


def _look_up(graph: Any, node: Any, stored: Codes, accuracy_level: int) -> None:
    """Put ``GatherBlockQuantized`` in place of a look-up, on the very codes that a tied head multiplies with."""
    import onnx_ir

    last = constant(graph, "axis_of_a_group", np.array([-1], np.int64))
    grids = [_scales(graph, node, stored)]
    if stored.zero is not None:  # one a byte, where a product reads two of 4 bits in a byte
        name = "zero" if stored.bits == 8 else "zero_of_group"
        grids.append(constant(graph, f"{stored.name}.{name}", stored.zero))
    by_group = [onnx_ir.node("Unsqueeze", [grid, last]) for grid in grids]
    codes = constant(graph, f"{stored.name}.codes", stored.packed)
    numbers = {"bits": stored.bits, "block_size": stored.codes.shape[2], "gather_axis": 0, "quantize_axis": 2}
    inputs = [codes, node.inputs[1], *(made.outputs[0] for made in by_group)]
    looked = onnx_ir.node("GatherBlockQuantized", inputs, numbers, domain="com.microsoft")
    graph.insert_before(node, [*by_group, looked])
    shape = constant(graph, "shape_of_looked_up", np.array([0, 0, -1], np.int64))
    _replace(graph, node, onnx_ir.node("Reshape", [looked.outputs[0], shape]))


def _replace(graph: Any, node: Any, other: Any) -> None:
    graph.insert_before(node, other)
    old, new = node.outputs[0], other.outputs[0]
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if new.is_graph_output():
        new.name, old.name = old.name, None
    graph.remove(node, safe=True)
