from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.exporters.test_onnx_generation import scores, session_of, tokens
from tests.exporters.tiny import language_model, put_on_grid

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters import onnx_weights
from attar.exporters.decoding import Reader
from attar.exporters.onnx import OnnxExporter
from attar.exporters.onnx_generation import OnnxGenerationExporter
from attar.exporters.onnx_weights import codes_of, pack, quantize_file, write_graph

MIXED = {"embed_tokens": 8, "lm_head": 8, "down_proj": 3, "_proj": 4}
EXACT = 1


def operators(path: Path) -> dict[str, int]:
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    return {kind: kinds.count(kind) for kind in ("MatMul", "Gemm", "Gather", "MatMulNBits", "GatherBlockQuantized")}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_graph_equals_the_dequantized_model(symmetric: bool, tied: bool, tmp_path: Path) -> None:
    model = put_on_grid(language_model("llama", tie_word_embeddings=tied), MIXED, symmetric)
    OnnxGenerationExporter(EXACT).export(model, tmp_path / "m.onnx")
    found = operators(tmp_path / "m.onnx")
    assert (found["MatMulNBits"], found["GatherBlockQuantized"]) == (15, 1)
    assert found["MatMul"] == found["Gemm"] == 0
    ids = tokens(12)
    wanted = scores(model, ids)
    reader = Reader(session_of(tmp_path / "m.onnx"))
    cache = reader.cache(12)
    said = np.concatenate([reader.read(cache, ids[:9], 9), *(reader.read(cache, [i]) for i in ids[9:])])
    assert np.abs(said - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_of_each_width_is_looked_up_exactly(bits: int, tmp_path: Path) -> None:
    model = put_on_grid(language_model("qwen2", tie_word_embeddings=True), {"embed_tokens": bits})
    OnnxGenerationExporter(EXACT).export(model, tmp_path / "m.onnx")
    reader, ids = Reader(session_of(tmp_path / "m.onnx")), tokens(7)
    wanted = scores(model, ids)
    assert np.abs(reader.read(reader.cache(7), ids, 7) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_rounding_the_inputs_costs_little(tmp_path: Path) -> None:
    model = put_on_grid(language_model("llama"), MIXED)
    OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    levels = [
        attribute.i
        for node in onnx.load(str(tmp_path / "m.onnx")).graph.node
        for attribute in node.attribute
        if attribute.name == "accuracy_level"
    ]
    assert levels == [4] * 15
    reader, ids = Reader(session_of(tmp_path / "m.onnx")), tokens(12)
    wanted = scores(model, ids)
    assert np.abs(reader.read(reader.cache(12), ids, 12) - wanted).max() < 0.1 * np.abs(wanted).max()


def test_a_tied_table_is_stored_once_and_small(tmp_path: Path) -> None:
    model = language_model("llama", tie_word_embeddings=True)
    OnnxGenerationExporter().export(model, tmp_path / "whole.onnx")
    put_on_grid(model, {"embed_tokens": 8, "_proj": 4})
    OnnxGenerationExporter().export(model, tmp_path / "small.onnx")
    held = [value for value in onnx.load(str(tmp_path / "small.onnx")).graph.initializer if "embed" in value.name]
    assert sorted(value.name.rsplit(".", 1)[1] for value in held) == ["codes", "scale", "zero"]
    largest = max(held, key=lambda value: len(value.raw_data))
    assert len(largest.raw_data) == model.module.get_input_embeddings().weight.numel()  # type: ignore[operator, union-attr]


def test_a_classifier_by_label_words(label_reader: Callable[..., Model], tmp_path: Path) -> None:
    model = label_reader()
    put_on_grid(model, {"embed_tokens": 8, "_proj": 4})
    _classifier_agrees(model, tmp_path)


def test_a_classifier_with_a_head_and_biases(text_student: Model, tmp_path: Path) -> None:
    put_on_grid(text_student, {"word_embeddings": 8, "query": 4, "dense": 4, "classifier": 8})
    _classifier_agrees(text_student, tmp_path)


def _classifier_agrees(model: Model, folder: Path) -> None:
    OnnxExporter().export(model, folder / "whole.onnx")
    found = quantize_file(folder / "whole.onnx", folder / "small.onnx", model, EXACT)
    assert len(found) >= 5
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        said = model.module(**inputs)
    wanted = getattr(said, "logits", said).numpy()
    session = session_of(folder / "small.onnx")
    got = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    assert np.abs(got - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())
    assert operators(folder / "small.onnx")["MatMulNBits"] > 0


def test_codes_are_those_of_the_grid() -> None:
    model = put_on_grid(language_model("llama"), {"q_proj": 4})
    for name, codes in codes_of(model).items():
        weight = model.module.get_parameter(name).detach().numpy()
        zero = codes.zero[..., None].astype(np.float32)  # type: ignore[index]
        rebuilt = codes.scale[..., None] * (codes.codes - zero)
        assert np.abs(rebuilt.reshape(weight.shape) - weight).max() < 1e-6
        assert codes.packed.shape == (64, 4, 8)


def test_packing_an_odd_number_of_halves() -> None:
    assert pack(np.array([[1, 2, 15]], np.uint8), 4).tolist() == [[1 + 2 * 16, 15]]
    assert pack(np.array([[1, 255]], np.uint8), 8).tolist() == [[1, 255]]


def test_a_group_of_zeros() -> None:
    model = put_on_grid(language_model("llama"), {"q_proj": 4}, symmetric=True)
    name = next(iter(model.facts["quantized"]))
    model.module.get_parameter(name).data[0, :16] = 0
    model.tensors[f"{name}.scale"][0, 0] = 0
    assert codes_of(model)[name].codes[0, 0].tolist() == [8] * 16


def test_weights_that_left_their_grid_are_refused(tmp_path: Path) -> None:
    model = put_on_grid(language_model("llama"), {"_proj": 4})
    model.module.get_parameter("model.layers.1.mlp.up_proj.weight").data += 0.003
    with pytest.raises(AttarError, match=r"layers\.1\.mlp\.up_proj\.weight is no longer on the grid"):
        OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = put_on_grid(language_model("llama"), {"q_proj": 4})
    model.module.get_parameter(next(iter(model.facts["quantized"]))).data[0, 0] = float("nan")
    with pytest.raises(AttarError, match="no longer on the grid"):
        codes_of(model)


@pytest.mark.parametrize(("fact", "value"), [("group", 24), ("group", 8), ("bits", 9)])
def test_a_grid_that_onnx_cannot_hold_is_refused(fact: str, value: int) -> None:
    model = put_on_grid(language_model("llama"), {"q_proj": 4})
    next(iter(model.facts["quantized"].values()))[fact] = value
    with pytest.raises(AttarError, match="Quantize with group: 32"):
        codes_of(model)


def test_scales_that_float16_holds_take_two_bytes(tmp_path: Path) -> None:
    model = put_on_grid(language_model("llama"), MIXED, symmetric=True, half=True)
    for facts in model.facts["quantized"].values():
        facts["format"] = "q4_0"  # llama.cpp's, whose scales are float16
    OnnxGenerationExporter(EXACT).export(model, tmp_path / "m.onnx")
    held = [value for value in onnx.load(str(tmp_path / "m.onnx")).graph.initializer if value.name.endswith("scale")]
    assert len(held) == 16
    assert {value.data_type for value in held} == {onnx.TensorProto.FLOAT16}
    ids = tokens(8)
    wanted = scores(model, ids)
    reader = Reader(session_of(tmp_path / "m.onnx"))
    assert np.abs(reader.read(reader.cache(8), ids, 8) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_other_formats_stay_as_they_are(tmp_path: Path) -> None:
    model = put_on_grid(language_model("llama"), {"_proj": 4})
    for facts in model.facts["quantized"].values():
        facts["format"] = "q4_1"
    OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx")["MatMulNBits"] == 0


def test_a_graph_without_the_quantized_weights_is_refused(tmp_path: Path) -> None:
    OnnxGenerationExporter().export(language_model("llama", seed=1), tmp_path / "other.onnx")
    model = put_on_grid(language_model("llama"), {"_proj": 4})
    with pytest.raises(AttarError, match="None of the quantized weights"):
        quantize_file(tmp_path / "other.onnx", tmp_path / "small.onnx", model)


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "m.onnx"
    graph = OnnxGenerationExporter().graph(language_model("llama"))
    write_graph(graph, path)
    whole = path.read_bytes()
    monkeypatch.setattr("onnx_ir.save", full)
    with pytest.raises(AttarError, match="No space is left"):
        write_graph(graph, path)
    assert path.read_bytes() == whole
    assert [held.name for held in tmp_path.iterdir()] == ["m.onnx"]


def test_a_half_written_graph_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    OnnxGenerationExporter().export(language_model("llama"), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf):
        session_of(path)


def test_too_large_a_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_weights, "LARGEST", 1000)
    with pytest.raises(AttarError, match=r"holds at most 2\.1 GB"):
        OnnxGenerationExporter().export(language_model("llama"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
