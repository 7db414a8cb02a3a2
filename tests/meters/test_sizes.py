from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.nouns import Model
from attar.meters import sizes


class Tied(torch.nn.Module):
    """A table of tokens that is the head too, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 64)
        self.layer = torch.nn.Linear(64, 8, bias=False)
        self.head = torch.nn.Linear(64, 10, bias=False)
        self.head.weight = self.embed.weight


def _graph(path: Path, nodes: list[Any], weights: Mapping[str, Any], types: dict[str, int] | None = None) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    held += [helper.make_tensor(name, kind, [6], [1, 0, 2, 3, 0, 1]) for name, kind in (types or {}).items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 64])], [], held
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    return path


def test_tied_parameters_count_once_in_number_bits_and_zeros() -> None:
    net = Tied()
    net.layer.weight.data[:4] = 0
    size = sizes.of_model(Model(net, "net"))
    assert size.parameters == 640 + 512
    assert size.to_json() == {
        "parameters": 1152,
        "bits_per_parameter": 32.0,
        "nonzero": pytest.approx((1152 - 256) / 1152, abs=1e-6),
    }
    assert sizes.of_model(Model(net.bfloat16(), "net")).to_json()["bits_per_parameter"] == 16


@pytest.mark.parametrize(
    ("form", "bits", "sides", "by_hand"),
    [
        ("nbits", 4, {"scale": (10, 2), "zero": (10, 2)}, 640 * 4 + 20 * 16 + 20 * 4),
        ("nbits", 8, {"scale": (10, 2)}, 640 * 8 + 20 * 16),
        ("q8_0", 8, {"scale": (10, 2)}, 640 * 8 + 20 * 16),  # 8.5 bits
        ("q4_0", 4, {"scale": (10, 2)}, 640 * 4 + 20 * 16),  # 4.5 bits
        ("q4_1", 4, {"scale": (10, 2), "minimum": (10, 2)}, 640 * 4 + 2 * 20 * 16),  # 5 bits
    ],
)
@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_quantized_weights_have_the_bits_of_codes_and_scales(
    name: str, form: str, bits: int, sides: dict[str, tuple[int, int]], by_hand: int
) -> None:
    """A tied matrix is quantized under either of its names."""
    plan = {"bits": bits, "group": 32, "symmetric": "zero" not in sides, "format": form}
    tensors = {f"{name}.{side}": torch.zeros(shape) for side, shape in sides.items()}
    size = sizes.of_model(Model(Tied(), "net", facts={"quantized": {name: plan}}, tensors=tensors))
    assert size.stored_bits == by_hand + 512 * 32
    assert size.parameters == 1152


def test_a_float_graph_leaves_out_what_is_no_weight(tmp_path: Path) -> None:
    from onnx import helper

    weights = {
        "w": np.eye(64, 3, dtype=np.float32),
        "shape": np.array([0, 3], np.int64),
        "one": np.full(1, 0.5, np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Reshape", ["y", "shape"], ["z"])]
    path = _graph(tmp_path / "g.onnx", nodes, weights)
    assert sizes.of_graph(path) == sizes.Size(192, 192 * 32, 3 / 192)
    assert (
        sizes.of_graph(path, parameters=96).to_json()["bits_per_parameter"] == 64
    )  # a tied matrix that lies there twice


def test_a_dynamic_graph_counts_scales_as_bits_alone(tmp_path: Path) -> None:
    from onnx import helper

    weights = {
        "w": np.array([[1, 0, 2]] * 64, np.int8),
        "s": np.ones(3, np.float32),
        "z": np.array([0, 0, 2], np.int8),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "w", "qz", "z"], ["i"]),
        helper.make_node("Mul", ["qs", "s"], ["scale"]),
    ]
    size = sizes.of_graph(_graph(tmp_path / "g.onnx", nodes, weights))
    assert size == sizes.Size(192, 192 * 8 + 3 * 32 + 3 * 8, 64 / 192)  # codes at their zero point are zeros


def test_a_static_graph_counts_its_biases_and_their_scales(tmp_path: Path) -> None:
    from onnx import helper

    weights = {
        "w": np.arange(12, dtype=np.int8).reshape(3, 4, 1, 1),
        "s": np.ones(3, np.float32),
        "z": np.array([0, 4, 8], np.int8),
        "b": np.array([5, 0, 7], np.int32),
        "bs": np.ones(3, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
        helper.make_node("Conv", ["x", "wd", "bd"], ["y"]),
    ]
    size = sizes.of_graph(_graph(tmp_path / "g.onnx", nodes, weights))
    assert size == sizes.Size(15, 12 * 8 + 3 * 32 + 3 * 8 + 3 * 32 + 3 * 32, (9 + 2) / 15)


@pytest.mark.parametrize("zeros", [False, True])
def test_weights_of_four_bits_lie_two_in_a_byte(zeros: bool, tmp_path: Path) -> None:
    from onnx import helper

    codes = np.full((10, 2, 16), 0x88, np.uint8)
    codes[0] = 0x85  # of two weights one is the middle, which is 0 where no zero point is given
    packed = {"b": codes, "s": np.ones(20, np.float32), "z": np.full(10, 0x55, np.uint8)}
    names = ["x", "b", "s", "z"] if zeros else ["x", "b", "s"]
    packed = {name: packed[name] for name in names[1:]}
    sizes_of_it = {"K": 64, "N": 10, "bits": 4, "block_size": 32}
    product = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **sizes_of_it)
    found = sizes.of_graph(_graph(tmp_path / "g.onnx", [product], packed))
    if zeros:
        assert found == sizes.Size(640, 640 * 4 + 20 * 32 + 20 * 4, (640 - 32) / 640)
    else:
        assert found == sizes.Size(640, 640 * 4 + 20 * 32, 32 / 640)


def test_a_table_of_codes_that_is_looked_up_in_counts_its_weights(tmp_path: Path) -> None:
    from onnx import helper

    codes = {"b": np.full((10, 2, 16), 0x01, np.uint8), "s": np.ones((10, 2), np.float32), "last": np.array([-1])}
    nodes = [
        helper.make_node("Unsqueeze", ["s", "last"], ["by_group"]),
        helper.make_node(
            "GatherBlockQuantized", ["b", "x", "by_group"], ["y"], domain="com.microsoft", bits=4, block_size=32
        ),
    ]
    assert sizes.of_graph(_graph(tmp_path / "g.onnx", nodes, codes)) == sizes.Size(640, 640 * 4 + 20 * 32, 1.0)


def test_the_types_of_four_bits_are_stored_in_half_a_byte(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    named = helper.make_node("DequantizeLinear", ["four", "s"], ["y"])
    path = _graph(tmp_path / "g.onnx", [named], {"s": np.array(0.5, np.float32)}, {"four": TensorProto.INT4})
    assert sizes.of_graph(path) == sizes.Size(6, 6 * 4 + 32, 4 / 6)


def test_blocks_of_gguf_hold_their_scales(tmp_path: Path) -> None:
    import gguf
    from gguf.quants import quantize

    values = np.ones((4, 64), np.float32)
    values[0] = 0
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    kinds = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1)
    for kind in kinds:
        writer.add_tensor(f"w.{kind.name}", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = sizes.of_gguf(tmp_path / "m.gguf")
    assert size == sizes.Size(512, 256 * 17 // 2 + 256 * 5, 0.75)
    assert sizes.of_folder(tmp_path)["bits_per_parameter"] == 6.75


def test_files_are_told_apart_by_what_they_are_for(tmp_path: Path) -> None:
    files = {
        "model.onnx": 100,
        "model.onnx.data": 900,
        "tokenizer.json": 20,
        "tokenizer_config.json": 3,
        "vocab.txt": 4,
    }
    for name, size in {**files, "bundle.json": 7, "config.json": 5, "artifact.json": 999, "README.md": 999}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert sizes.stored(tmp_path) == {
        "bytes": 1039,
        "weight_bytes": 1000,
        "tokenizer_bytes": 27,
        "card_bytes": 12,
    }
    assert sizes.stored(tmp_path / "model.onnx.data")["weight_bytes"] == 900


def test_a_saved_model_is_sized_by_its_files_and_its_parameters(text_student: Any, tmp_path: Path) -> None:
    from attar.students import folder

    folder.save(text_student, tmp_path)
    found = sizes.of_folder(tmp_path, text_student)
    assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*"))
    assert found["weight_bytes"] == pytest.approx(4 * found["parameters"], rel=0.1)
    assert found["tokenizer_bytes"] > 0
    assert found["bits_per_parameter"] == 32
