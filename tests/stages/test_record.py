from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.stages import record as stage
from attar.stages.record import PROBE, SHARD, Known, record
from attar.teachers.codecs import fidelity
from attar.teachers.recorded import RecordedTeacher


class Killed(Exception):
    """Stand for the kill of the process."""


class Counting:
    """Answer by key, count what it is asked, and die where told."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "counting"

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.calls = 0
        self.dies_at = dies_at

    def answer(self, examples: Examples) -> Rows:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        self.asked += examples.keys.tolist()
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return example_rows(keys, _logits(keys))


def _logits(keys: torch.Tensor) -> torch.Tensor:
    return torch.stack([(keys.double() * k).sin().float() * 3 for k in (1, 2, 3)], dim=1)


def _texts(count: int, first: int = 0) -> Examples:
    random = np.random.Generator(np.random.PCG64(first))
    inputs = ["x" * int(random.integers(1, 90)) for _ in range(count)]
    return Examples(np.arange(first, first + count) + 1000, inputs, np.zeros(count, int))


SPLITS = {"train": _texts(3 * SHARD + 5), "validation": _texts(40, 5000)}
TOTAL = 3 * SHARD + 45


def _record(teacher: Any, folder: Path, known: Known | None = None) -> dict[str, Any]:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return record(teacher, SPLITS, folder / "work", folder / "content", known)


def test_every_example_is_asked_once_and_answered_in_any_order(tmp_path: Path) -> None:
    teacher = Counting()
    facts = _record(teacher, tmp_path)
    assert sorted(teacher.asked[:TOTAL]) == sorted([*SPLITS["train"].keys, *SPLITS["validation"].keys])
    assert len(teacher.asked) == TOTAL + PROBE
    assert (facts["rows"], facts["calls"], facts["codec"]) == (TOTAL, TOTAL, "full")
    kept = RecordedTeacher(tmp_path / "content", "")
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(SPLITS["train"]))
    shuffled = SPLITS["train"].take(order)
    exact = _logits(torch.from_numpy(shuffled.keys)).softmax(-1)
    assert torch.allclose(kept.answer(shuffled).dense().softmax(-1), exact, atol=2e-3)


def test_fidelity_is_that_of_all_rows(tmp_path: Path) -> None:
    facts = _record(Counting(), tmp_path)
    keys = torch.from_numpy(np.concatenate([split.keys for split in SPLITS.values()]))
    expected = fidelity(_logits(keys)).to_json()
    assert facts["fidelity"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert facts["fidelity"]["bytes_per_row"] == 6.0
    assert facts["preflight"][0]["passed"]


@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_a_continued_record_asks_nothing_again(dies_at: int, tmp_path: Path) -> None:
    first = Counting(dies_at)
    with pytest.raises(Killed):
        _record(first, tmp_path)
    second = Counting()
    _record(second, tmp_path)
    again = second.asked[:-PROBE]
    assert not set(first.asked) & set(again)
    assert len(first.asked) + len(again) == TOTAL
    undisturbed = tmp_path / "undisturbed"
    _record(Counting(), undisturbed)
    for split in SPLITS.values():
        both = [RecordedTeacher(folder / "content", "").answer(split) for folder in (tmp_path, undisturbed)]
        assert torch.equal(both[0].dense(), both[1].dense())


def test_the_facts_of_a_continued_record_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _record(Counting(3), tmp_path / "killed")
    facts = _record(Counting(), tmp_path / "killed")
    assert facts == _record(Counting(), tmp_path / "undisturbed")


def test_killed_between_the_record_and_the_store(tmp_path: Path) -> None:
    _record(Counting(), tmp_path)
    again = Counting()
    _record(again, tmp_path)
    assert len(again.asked) == PROBE


def test_known_answers_are_reused(tmp_path: Path) -> None:
    keys = SPLITS["validation"].keys[::-1].copy()
    known = Known(keys, _logits(torch.from_numpy(keys)).log_softmax(-1).numpy())
    teacher = Counting()
    facts = _record(teacher, tmp_path, known)
    assert facts["calls"] == TOTAL - 40
    assert not set(teacher.asked[:-PROBE]) & set(keys.tolist())
    said = RecordedTeacher(tmp_path / "content", "").answer(SPLITS["validation"]).dense()
    exact = _logits(torch.from_numpy(SPLITS["validation"].keys)).log_softmax(-1)
    assert torch.allclose(said, exact, atol=5e-3)


def test_some_known_within_a_shard(tmp_path: Path) -> None:
    keys = SPLITS["train"].keys[::3].copy()
    known = Known(keys, _logits(torch.from_numpy(keys)).log_softmax(-1).numpy())
    facts = _record(Counting(), tmp_path, known)
    assert facts["calls"] == TOTAL - len(keys)
    said = RecordedTeacher(tmp_path / "content", "").answer(SPLITS["train"]).dense()
    assert torch.allclose(said.softmax(-1), _logits(torch.from_numpy(SPLITS["train"].keys)).softmax(-1), atol=2e-3)


def test_nothing_known_is_nothing(tmp_path: Path) -> None:
    empty = Known(np.array([], np.int64), np.zeros((0, 3), np.float32))
    assert _record(Counting(), tmp_path, empty)["calls"] == TOTAL


def test_a_teacher_that_changes_its_mind_stops_the_run(tmp_path: Path) -> None:
    class Fickle(Counting):
        def answer(self, examples: Examples) -> Rows:
            rows = super().answer(examples)
            return rows if self.calls <= 5 else Rows(rows.key, rows.weight, -rows.dense())

    with pytest.raises(AttarError, match=r"they must agree to 0.1"):
        _record(Fickle(), tmp_path)


@pytest.mark.parametrize("count", [1, SHARD, SHARD + 1])
def test_shards_hold_every_example_once_by_length(count: int, tmp_path: Path) -> None:
    texts = _texts(count)
    shards = stage._shards(texts, tmp_path, "train")
    assert sorted(int(k) for _, part in shards for k in part.keys) == texts.keys.tolist()
    assert all(len(part) <= SHARD for _, part in shards)
    lengths = [len(text) for _, part in shards for text in part.inputs]
    assert lengths == sorted(lengths)
    assert len({path for path, _ in shards}) == len(shards)


def test_images_are_recorded(tmp_path: Path) -> None:
    images = Examples(np.arange(70), np.zeros((70, 1, 2, 2), np.uint8), np.zeros(70, int))
    (tmp_path / "work").mkdir()
    facts = record(Counting(), {"train": images}, tmp_path / "work", tmp_path / "content")
    assert facts["rows"] == 70
