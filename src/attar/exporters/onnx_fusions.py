"""Join small operators of an exported language model into onnxruntime's own larger ones, without changing a result."""

from __future__ import annotations

from typing import Any

import numpy as np

SWAP = [0, 2, 1, 3]
"""Between ``(batch, time, heads, width)`` and ``(batch, heads, time, width)``."""


def fuse(graph: Any) -> None:
    """Join the operators of root-mean-square norms (with the sum before them) and of rotary positions.

    At one token a call, most operators of a small model take longer to start than to compute; this leaves a third.

    Args:
        graph: a model of `onnx_ir` with ``GroupQueryAttention`` operators, changed in place.
    """
    from onnx_ir.passes import common
    from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
    from onnxscript.rewriter.ort_fusions.skip_normalization import fuse_skip_rms_normalization

    fuse_rms_normalization(graph)
    fuse_skip_rms_normalization(graph)
    _fuse_rotary(graph.graph)
    _drop_reshapes(graph.graph)
    common.RemoveUnusedNodesPass()(graph)


def _fuse_rotary(graph: Any) -> None:
    """Replace each query's and key's rotation, as `transformers` writes it, by one ``RotaryEmbedding``."""
    tables: dict[str, list[Any]] = {}
    for node in [node for node in graph if node.op_type == "GroupQueryAttention"]:
        for place in (0, 1):
            added = _of(_first(_first(node.inputs[place], "Reshape"), "Transpose"), "Add")
            found = None if added is None else _rotation(added)
            if found is None:
                continue
            states, cosine, sine = found
            key = f"{cosine.name} {sine.name}"
            if key not in tables:
                tables[key] = _tables(graph, added, cosine, sine)
            flat = _first(_first(states, "Transpose"), "Reshape")
            is_flat = flat is not None and flat.shape is not None and len(flat.shape) == 3
            rotated = _put(
                graph, added, "RotaryEmbedding", [flat if is_flat else states, *tables[key]], "com.microsoft"
            )
            if is_flat:
                node.replace_input_with(place, rotated)
            else:
                added.outputs[0].replace_all_uses_with(rotated)


def _drop_reshapes(graph: Any) -> None:
    """Pass over two reshapes of which the second undoes the first: heads taken apart and put together again."""
    for node in [node for node in graph if node.op_type == "Reshape"]:
        before, made = _first(node.inputs[0], "Reshape"), node.outputs[0]
        if before is not None and before.shape is not None and before.shape == made.shape:
            made.replace_all_uses_with(before)


def _rotation(added: Any) -> tuple[Any, Any, Any] | None:
    """Return states, cosine and sine of ``x * cos + concat(-x[half:], x[:half]) * sin``; None for another sum."""
    plain, turned = (_of(value, "Mul") for value in added.inputs)
    halves = None if turned is None else _of(turned.inputs[0], "Concat")
    if plain is None or halves is None or len(halves.inputs) != 2:
        return None
    states = plain.inputs[0]
    second, first = _of(_first(halves.inputs[0], "Neg"), "Slice"), _of(halves.inputs[1], "Slice")
    width = states.shape[-1] if states.shape is not None else None
    if not isinstance(width, int) or second is None or first is None:
        return None
    if not (_is_slice(first, states, 0, width // 2) and _is_slice(second, states, width // 2, width)):
        return None
    cosine, sine = _angles(plain.inputs[1], "Cos"), _angles(turned.inputs[1], "Sin")
    return None if cosine is None or sine is None else (states, cosine, sine)


def _is_slice(node: Any, states: Any, first: int, last: int) -> bool:
    """Tell whether a slice takes ``states[..., first:last]`` of four axes."""
    numbers = [_number(value) for value in node.inputs[1:]]
    if node.inputs[0] is not states or len(numbers) < 3 or None in numbers:
        return False
    start, end, axis, step = [*numbers, 1][:4]
    width = states.shape[-1]
    return axis in (3, -1) and step == 1 and start == first and min(end, width) == last


def _angles(value: Any, function: str) -> Any:
    """Return cosines or sines ``(batch, time, width)`` whose two halves are equal, before the axis of heads."""
    table = _first(value, "Unsqueeze")
    node = None if table is None else table.producer()
    while node is not None and node.op_type in ("Mul", "Cast") and (node.op_type == "Cast" or _number(node.inputs[1])):
        node = node.inputs[0].producer()
    if node is None or node.op_type != function:
        return None
    twice = _of(node.inputs[0], "Concat")
    same = twice is not None and len(twice.inputs) == 2 and twice.inputs[0] is twice.inputs[1]
    return table if same and len(table.shape) == 3 and isinstance(table.shape[2], int) else None


def _tables(graph: Any, before: Any, cosine: Any, sine: Any) -> list[Any]:
    """Return the row of each token in tables of cosines and sines ``(batch * time, width / 2)``, and the tables."""
    half = cosine.shape[2] // 2
    halves = []
    for table in (cosine, sine):
        left = _put(graph, before, "Slice", [table, *(_numbers(graph, [n]) for n in (0, half, 2))])
        halves.append(_put(graph, before, "Reshape", [left, _numbers(graph, [-1, half])]))
    size = _put(graph, before, "Shape", [cosine], start=0, end=2)
    count = _put(graph, before, "ReduceProd", [size], keepdims=0)
    rows = _put(graph, before, "Range", [_numbers(graph, 0), count, _numbers(graph, 1)])
    return [_put(graph, before, "Reshape", [rows, size]), *halves]


def _put(graph: Any, before: Any, operator: str, inputs: list[Any], domain: str = "", **attributes: Any) -> Any:
    """Insert an operator before a node and return its output."""
    import onnx_ir

    node = onnx_ir.node(operator, inputs, attributes, domain=domain)
    graph.insert_before(before, node)
    return node.outputs[0]


def _numbers(graph: Any, numbers: list[int] | int) -> Any:
    array = np.asarray(numbers, np.int64)
    return constant(graph, f"numbers_{'_'.join(str(n) for n in array.reshape(-1))}_{array.ndim}", array)


def constant(graph: Any, name: str, array: np.ndarray) -> Any:
    """Return the constant of that name in a graph of `onnx_ir`; it is added if there is none yet."""
    import onnx_ir

    if name not in graph.initializers:
        tensor = onnx_ir.tensor(np.asarray(array, order="C"), name=name)
        value = onnx_ir.Value(
            name=name, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def _of(value: Any, operator: str) -> Any:
    """Return the node that makes a value if it is such an operator, else None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != operator:
        return None
    return node if operator != "Transpose" or list(node.attributes.get_ints("perm", [])) == SWAP else None


def _first(value: Any, operator: str) -> Any:
    """Return the first input of such an operator, or None where another makes the value."""
    node = _of(value, operator)
    return None if node is None else node.inputs[0]


def _number(value: Any) -> float | None:
    """Return the number that a constant of one element holds."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))
