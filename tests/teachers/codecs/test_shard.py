from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attar.core.rows import Rows
from attar.errors import AttarError
from attar.store import files
from attar.teachers.codecs.shard import Shard, frame, ordered, write

TENSORS = {
    "a": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0]).half(),
    "c": torch.tensor([7, 65_535]).to(torch.uint16),
    "d": torch.zeros((0, 4), dtype=torch.uint8),
}


def _rows(pairs: list[tuple[int, int]], weight: list[float] | None = None) -> Rows:
    given = torch.ones(len(pairs)) if weight is None else torch.tensor(weight)
    key = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return Rows(key, given, torch.arange(float(len(pairs)))[:, None])


def test_tensors_and_facts_survive(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", TENSORS, {"rows": 2, "name": "é"})
    shard = Shard(tmp_path / "a.safetensors").check()
    assert shard.facts == {"rows": 2, "name": "é"}
    for name, tensor in TENSORS.items():
        assert torch.equal(torch.from_numpy(shard.tensors[name].copy()).double(), tensor.double())
        assert shard.tensors[name].shape == tuple(tensor.shape)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_field_reads_the_file_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write(tmp_path / "a.safetensors", TENSORS, {})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], TENSORS["a"])


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, TENSORS, {"rows": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_flipped_byte_anywhere_is_noticed_and_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, TENSORS, {"rows": 2})
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(AttarError, match=r"a\.safetensors is (damaged|no part)"):
            Shard(path).check()


@pytest.mark.parametrize("harm", ["cut", "empty", "long", "other", "lost", "noise"])
def test_a_damaged_file_is_named(harm: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    write(path, TENSORS, {})
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif harm == "long":
        path.write_bytes(path.read_bytes() + b"x")
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif harm == "other":
        save_file({"weights": torch.zeros(2)}, path)
    else:
        path.unlink()
    with pytest.raises(AttarError, match=r"a\.safetensors is (damaged|no part)"):
        Shard(path).check()


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    write(tmp_path / "a.safetensors", TENSORS, {"rows": 1})
    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.safetensors", TENSORS, {"rows": 2})
    assert Shard(tmp_path / "a.safetensors").check().facts == {"rows": 1}


def test_rows_are_put_example_by_example_positions_ascending() -> None:
    rows, counts = ordered(_rows([(5, 9), (3, 1), (5, 2), (3, 0), (5, 4)]), np.array([5, 4, 3]))
    assert rows.key.tolist() == [[5, 2], [5, 4], [5, 9], [3, 0], [3, 1]]
    assert rows.dense().flatten().tolist() == [2.0, 4.0, 0.0, 3.0, 1.0]
    assert counts.tolist() == [3, 0, 2]


def test_rows_in_order_are_left_as_they_are() -> None:
    rows = _rows([(5, 2), (5, 3), (3, 0)])
    assert ordered(rows, np.array([5, 3]))[0] is rows


def test_no_rows_and_no_examples() -> None:
    assert ordered(_rows([]), np.array([5, 3]))[1].tolist() == [0, 0]
    assert ordered(_rows([]), np.array([], int))[1].tolist() == []


def test_rows_of_strangers_are_refused() -> None:
    with pytest.raises(ValueError, match="it was not asked"):
        ordered(_rows([(5, 2), (6, 0)]), np.array([5, 3]))


def test_positions_in_a_row_and_weights_of_one_take_nothing() -> None:
    rows = _rows([(5, 2), (5, 3), (3, 0)])
    found = frame(rows, np.array([5, 4, 3]), np.array([2, 0, 1]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "examples": [5, 4, 3],
        "counts": [2, 0, 1],
        "starts": [2, 0, 0],
    }


def test_positions_with_gaps_and_other_weights_are_kept() -> None:
    found = frame(_rows([(5, 2), (5, 4), (3, 0)], [1.0, 0.5, 1.0]), np.array([5, 3]), np.array([2, 1]))
    assert found["positions"].tolist() == [2, 4, 0]
    assert found["weight"].tolist() == [1.0, 0.5, 1.0]
    assert frame(_rows([]), np.array([5]), np.array([0]))["starts"].tolist() == [0]
