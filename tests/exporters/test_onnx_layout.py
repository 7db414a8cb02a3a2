"""The export must keep the names of weights, and sums that onnxruntime would join into a slow operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import numpy_helper

from attar.exporters.onnx_layout import keep_sums, name_weights


@pytest.mark.parametrize("place", [0, 1])
def test_matrices_have_the_names_of_the_parameters(place: int, text_graph: tuple[Any, Path]) -> None:
    model, path = text_graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    layer = model.module.bert.encoder.layer[place]
    modules = {"attention.self.query": layer.attention.self.query, "output.dense": layer.output.dense}
    for name, module in modules.items():
        found = tensors[f"inner.bert.encoder.layer.{place}.{name}.weight"]
        assert np.array_equal(found, module.weight.detach().numpy().T)


def test_equal_matrices_are_named_once_each() -> None:
    module = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2, bias=False) for name in "ab"})
    with torch.no_grad():
        module["b"].weight.copy_(module["a"].weight)
    matrix = module["a"].weight.detach().numpy().T.copy()
    values = []
    for name in ("val_1", "val_2", "val_3"):
        tensor = onnx_ir.tensor(matrix if name != "val_3" else matrix + 1, name=name)
        values.append(onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype)))
        values[-1].const_value = tensor
    graph = onnx_ir.Graph([], [], nodes=[], initializers=values)
    name_weights(graph, module)
    assert sorted(graph.initializers) == ["a.weight", "b.weight", "val_3"]


def test_sums_before_a_norm_alone_are_kept(text_graph: tuple[Any, Path]) -> None:
    nodes = onnx.load(str(text_graph[1])).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    before = [makers[node.input[0]] for node in nodes if node.op_type == "LayerNormalization"]
    assert set(before) == {"Sum"}
    assert len(before) == 5
    assert [node.op_type for node in nodes].count("Sum") == len(before)


def test_a_norm_of_an_input_has_no_sum() -> None:
    value = onnx_ir.Value(name="x")
    norm = onnx_ir.node("LayerNormalization", [value], {})
    graph = onnx_ir.Graph([value], norm.outputs, nodes=[norm])
    keep_sums(graph)
    assert [node.op_type for node in graph] == ["LayerNormalization"]
