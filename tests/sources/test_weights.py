"""Weights: only whole safetensors and GGUF pass; pickles are refused, and nothing is loaded to count."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from attar.errors import AttarError
from attar.sources.weights import as_folder, check_weights, model_config, parameter_count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 8}')
    arrays = {"embed": np.zeros((8, 4), np.float32), "head": np.zeros((4, 2), np.float16)}
    save_file({**arrays, "positions": np.arange(16)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(4)
    writer.add_block_count(2)
    writer.add_token_list(["a", "b", "c"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.ones((3, 4), np.float32))
    writer.add_tensor("output.weight", np.ones((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_whole_folder_passes_and_is_counted(folder: Path) -> None:
    check_weights(folder)
    assert parameter_count(folder) == 8 * 4 + 4 * 2
    assert model_config(folder)["vocab_size"] == 8


def test_shards_are_counted_together_and_a_missing_one_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, size in zip(names, (3, 5), strict=True):
        save_file({name[6:11]: np.zeros(size, np.float32)}, folder / name)
    index = {"weight_map": {"00001": names[0], "00002": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_weights(folder)
    assert parameter_count(folder) == 8
    (folder / names[1]).unlink()
    with pytest.raises(AttarError, match="1 of 2 weight files are missing, among them model-00002"):
        check_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(AttarError, match="no safetensors file beside it"):
        check_weights(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(AttarError, match="has no weight_map"):
        check_weights(folder)


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_truncated_safetensors_are_found(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AttarError, match=r"model\.safetensors is no whole safetensors file"):
        check_weights(folder)


@pytest.mark.parametrize(
    "header",
    [b"{]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b'{"a": {"dtype": "F32"}}'],
)
def test_a_damaged_header_is_found(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(AttarError, match="is no whole safetensors file"):
        check_weights(folder)


def test_pickles_are_refused_whatever_their_name(folder: Path) -> None:
    path = folder / "model.safetensors"
    (folder / "training_args.bin").write_bytes(pickle.dumps({}))
    check_weights(folder)  # a pickle beside safetensors is not read
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(AttarError, match="runs whatever code its author put into it"):
        check_weights(folder)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(AttarError, match="is a pickle"):
        check_weights(folder)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(AttarError, match=r"pytorch_model\.bin is a pickle.*safe_serialization"):
        check_weights(folder)
    with pytest.raises(AttarError, match="is a pickle"):
        parameter_count(folder)
    with pytest.raises(AttarError, match="is a pickle"):
        check_weights(folder / "pytorch_model.bin")


def test_a_header_whose_length_looks_like_a_pickle_passes(folder: Path) -> None:
    tensor = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = tensor.ljust(0x280)  # the file then begins with 80 02, as a pickle of protocol 2 does
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    check_weights(folder)
    assert parameter_count(folder) == 1


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert parameter_count(folder) is None
    with pytest.raises(AttarError, match="holds no weights"):
        check_weights(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(AttarError, match="cannot be read as JSON"):
        check_weights(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(AttarError, match="must hold a JSON object"):
        check_weights(folder)
    (folder / "config.json").unlink()
    with pytest.raises(AttarError, match=r"has no config\.json"):
        check_weights(folder)
    with pytest.raises(AttarError, match=r"has no config\.json"):
        check_weights(tmp_path / "nowhere")


def test_a_gguf_file_is_read_from_its_header(gguf_path: Path) -> None:
    check_weights(gguf_path)
    assert parameter_count(gguf_path) == 3 * 4 + 2 * 32
    expected = {"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 3}
    assert model_config(gguf_path) == expected


def test_a_gguf_file_cut_anywhere_is_refused(gguf_path: Path) -> None:
    content = gguf_path.read_bytes()
    for size in [*range(0, len(content) - 200, 7), len(content) - 40]:
        gguf_path.write_bytes(content[:size])
        with pytest.raises(AttarError, match="is no whole GGUF file"):
            check_weights(gguf_path)


def refused(path: Path) -> bool:
    try:
        check_weights(path)
    except AttarError:
        return True
    return False


def test_damaged_counts_neither_hang_nor_escape(gguf_path: Path) -> None:
    content = bytearray(gguf_path.read_bytes())
    outcomes = []
    for place in range(4, 400, 3):
        damaged = bytearray(content)
        damaged[place : place + 8] = b"\xff" * 8
        gguf_path.write_bytes(damaged)
        outcomes.append(refused(gguf_path))
    assert sum(outcomes) > len(outcomes) / 2  # the rest hit names and values that may be anything


def test_a_damaged_gguf_file_is_not_converted(gguf_path: Path, tmp_path: Path) -> None:
    gguf_path.write_bytes(gguf_path.read_bytes()[:100])
    with pytest.raises(AttarError, match="is no whole GGUF file"):
        as_folder(gguf_path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_family_that_transformers_does_not_know_is_said(tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "strange")
    writer.add_tensor("a", np.ones((3, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(AttarError, match=r"strange\.gguf cannot be converted: transformers says"):
        as_folder(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["strange.gguf"]
