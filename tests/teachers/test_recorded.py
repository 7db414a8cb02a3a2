from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.teachers.codecs.plain import TEMPERATURES, peaked

from attar.core.examples import Examples
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.teachers import recorded
from attar.teachers.codecs.base import Codec
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.sampled import SampledCodec
from attar.teachers.codecs.shard import frame, write
from attar.teachers.codecs.topk import TopkCodec
from attar.teachers.recorded import INDEX, RecordedTeacher, write_index

FULL = FullCodec(FullCodec.Settings())
CODECS: list[Codec] = [
    FULL,
    TopkCodec(TopkCodec.Settings(k=6, temperatures=TEMPERATURES)),
    SampledCodec(SampledCodec.Settings(bytes=24, temperatures=TEMPERATURES)),
]
COUNTS = {30: 3, 10: 1, 40: 4, 20: 0, 50: 5, 60: 2}
SHARDS = {"train-000000": (40, 10), "train-000001": (30, 60, 20), "validation-000000": (50,)}


def _rows(*examples: int, gap: int = 1) -> Rows:
    key = [(one, 2 + gap * place) for one in examples for place in range(COUNTS[one])]
    logits = torch.cat([peaked(COUNTS[one], 80, seed=one) for one in examples])
    return Rows(torch.tensor(key, dtype=torch.long).reshape(-1, 2), torch.ones(len(key)), logits)


def _shard(folder: Path, name: str, codec: Codec, rows: Rows, examples: tuple[int, ...]) -> None:
    counts = np.array([COUNTS[one] for one in examples])
    tensors = {**frame(rows, np.array(examples), counts), **codec.encode(rows)}
    write(folder / f"{name}.safetensors", tensors, {"rows": len(rows), "choices": 80})


def _record(folder: Path, codec: Codec = FULL) -> RecordedTeacher:
    for name, examples in SHARDS.items():
        _shard(folder, name, codec, _rows(*examples), examples)
    write_index(folder, codec)
    return RecordedTeacher(folder, "print")


def _ask(*keys: int) -> Examples:
    return Examples(np.array(keys, np.int64), ["x"] * len(keys), np.zeros(len(keys), int))


def _columns(rows: Rows, codec: Codec) -> list[torch.Tensor]:
    """Return all tensors of decoded rows, of whichever form."""
    if rows.top is not None:
        return [rows.top.ids, rows.top.log_p, *rows.top.rest.values()]
    if rows.sampled is not None:
        return [part for one in rows.sampled.values() for part in (one.ids, one.shares, one.entropy)]
    return [rows.dense()]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("asked", [(50, 10, 30), (20,), (60, 40, 20, 10, 50, 30), (30, 30), ()], ids=str)
def test_any_order_gives_rows_example_by_example(codec: Codec, asked: tuple[int, ...], tmp_path: Path) -> None:
    said = _record(tmp_path, codec).answer(_ask(*asked))
    rows = _rows(*asked) if asked else _rows(20)
    wanted = codec.decode(codec.encode(rows), rows.key, rows.weight, 80)
    assert torch.equal(said.key, rows.key)
    assert torch.equal(said.weight, rows.weight)
    assert said.choices == 80
    for one, other in zip(_columns(said, codec), _columns(wanted, codec), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_the_hard_target_is_the_teachers_choice(codec: Codec, tmp_path: Path) -> None:
    teacher = _record(tmp_path, codec)
    found = teacher.hard(_ask(50, 10, 60))
    assert found.dtype == torch.int64
    assert torch.equal(found, _rows(50, 10, 60).dense().argmax(-1))
    assert teacher.gives == codec.gives
    assert teacher.fingerprint == "print"
    assert len(teacher) == 15


def test_positions_with_gaps_and_weights_come_back(tmp_path: Path) -> None:
    rows = _rows(40, 10, gap=3)
    rows = Rows(rows.key, torch.tensor([1.0, 0.5, 0.25, 1.0, 2.0]), rows.logits)
    _shard(tmp_path, "a", FULL, rows, (40, 10))
    _shard(tmp_path, "b", FULL, _rows(30), (30,))
    write_index(tmp_path, FULL)
    said = RecordedTeacher(tmp_path, "").answer(_ask(10, 30, 40))
    assert said.key.tolist() == [[10, 2], [30, 2], [30, 3], [30, 4], [40, 2], [40, 5], [40, 8], [40, 11]]
    assert said.weight.tolist() == [2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 1.0]


def test_unknown_examples_are_refused(tmp_path: Path) -> None:
    teacher = _record(tmp_path)
    for strange in (0, 35, 2**62):
        with pytest.raises(AttarError, match="1 examples are not in the teacher's record"):
            teacher.answer(_ask(10, strange))
        with pytest.raises(AttarError, match="not in the teacher's record"):
            teacher.hard(_ask(strange))


def test_a_folder_without_shards_or_index_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="holds no record"):
        write_index(tmp_path, FULL)
    _record(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(AttarError, match="holds no record"):
        RecordedTeacher(tmp_path, "")


def test_an_example_recorded_twice_is_refused(tmp_path: Path) -> None:
    _record(tmp_path)
    _shard(tmp_path, "zzz", FULL, _rows(10), (10,))
    with pytest.raises(AttarError, match="recorded twice"):
        write_index(tmp_path, FULL)


@pytest.mark.parametrize("name", [INDEX, "train-000001.safetensors"])
def test_a_flipped_byte_is_noticed_with_the_first_use(name: str, tmp_path: Path) -> None:
    _record(tmp_path)
    path = tmp_path / name
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 4
    path.write_bytes(blob)
    with pytest.raises(AttarError, match=rf"{name} is damaged: its checksum differs"):
        RecordedTeacher(tmp_path, "").answer(_ask(60))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _record(tmp_path)
    (tmp_path / "validation-000000.safetensors").unlink()
    teacher = RecordedTeacher(tmp_path, "")
    assert len(teacher.answer(_ask(10, 30))) == 4
    with pytest.raises(AttarError, match=r"validation-000000\.safetensors is damaged"):
        teacher.answer(_ask(50))


def test_only_shards_that_are_asked_for_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Watched(recorded.Shard):
        def __init__(self, path: Path) -> None:
            opened.append(path.name)
            super().__init__(path)

    _record(tmp_path)
    monkeypatch.setattr(recorded, "Shard", Watched)
    teacher = RecordedTeacher(tmp_path, "")
    for _ in range(3):
        teacher.answer(_ask(30, 60))
    assert opened == [INDEX, "train-000000.safetensors", "train-000001.safetensors"]


def test_halves_that_a_kill_left_are_not_part_of_the_record(tmp_path: Path) -> None:
    (tmp_path / ".train-000000.safetensors").write_bytes(b"half")
    assert len(_record(tmp_path)) == 15


def test_shards_of_two_vocabularies_are_refused(tmp_path: Path) -> None:
    _record(tmp_path)
    rows = Rows(torch.tensor([[70, 0]]), torch.ones(1), torch.zeros(1, 81))
    write(
        tmp_path / "a.safetensors", {**frame(rows, np.array([70]), np.array([1])), **FULL.encode(rows)}, {"choices": 81}
    )
    with pytest.raises(AttarError, match="80 and 81 choices"):
        write_index(tmp_path, FULL)


def test_a_shard_that_changed_before_the_record_was_whole_is_noticed(tmp_path: Path) -> None:
    _record(tmp_path)
    path = tmp_path / "train-000001.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 4
    path.write_bytes(blob)
    with pytest.raises(AttarError, match=r"train-000001\.safetensors is damaged"):
        write_index(tmp_path, FULL)
