from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.rows import Head, Rows, example_rows
from attar.errors import AttarError
from attar.stages import record as stage
from attar.stages.record import PROBE, SHARD, Known, RecordSettings, record
from attar.teachers.codecs.base import Codec
from attar.teachers.codecs.fidelity import compare, stated
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.sampled import SampledCodec
from attar.teachers.codecs.topk import Target, TopkCodec
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
    rows, codec = example_rows(keys, _logits(keys)), FullCodec(FullCodec.Settings())
    expected = stated(compare(codec, rows, codec.encode(rows)), 6.0).to_json()
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
    shards = list(stage._shards(texts, tmp_path, "train"))
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


VOCABULARY = 300
LONG = {"train": _texts(30), "validation": _texts(9, 5000)}


class Speaking:
    """Answer with a row for each of some tokens, none for some examples, lazily given, in no order; die where told."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "speaking"

    def __init__(self, dies_at: int | None = None, pause: float = 0.0) -> None:
        draw = torch.Generator().manual_seed(0)
        self.head = Head(torch.randn(VOCABULARY, 6, generator=draw) * 2)
        self.calls, self.dies_at, self.pause = 0, dies_at, pause

    def answer(self, examples: Examples) -> Rows:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        time.sleep(self.pause)
        key = [(int(one), 4 + place) for one in examples.keys[::-1] for place in range(int(one) % 5)]
        found = torch.tensor(key, dtype=torch.long).reshape(-1, 2)
        phase = found[:, :1].double() + 0.37 * found[:, 1:] * torch.arange(1, 7)
        return Rows(found, torch.ones(len(found)), hidden=phase.sin().float(), head=self.head)


TOPK = TopkCodec(TopkCodec.Settings(k=8, temperatures=(1.0, 2.0)))
SAMPLED = SampledCodec(SampledCodec.Settings(bytes=24, temperatures=(1.0, 2.0)))
CODECS: list[Codec] = [FullCodec(FullCodec.Settings()), TOPK, SAMPLED]


def _long(folder: Path, codec: Codec, teacher: Any = None) -> dict[str, Any]:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    settings = RecordSettings(codec, seed=3, shard=4)
    return record(teacher or Speaking(), LONG, folder / "work", folder / "content", settings=settings)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "content").iterdir())}


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_row_for_every_token_is_recorded_by_every_codec(codec: Codec, tmp_path: Path) -> None:
    facts = _long(tmp_path, codec)
    counts = {int(one): int(one) % 5 for split in LONG.values() for one in split.keys}
    assert facts["rows"] == sum(counts.values())
    assert (facts["examples"], facts["calls"], facts["codec"]) == (39, 39, codec.name)
    kept = RecordedTeacher(tmp_path / "content", "")
    said = kept.answer(LONG["train"])
    assert said.key.tolist() == [[one, 4 + place] for one in LONG["train"].keys for place in range(one % 5)]
    order, _ = stage.ordered(Speaking().answer(LONG["train"]), LONG["train"].keys)
    assert torch.equal(kept.hard(LONG["train"]), order.dense().argmax(-1))
    assert stage.difference(order, said) < 0.02


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("dies_at", [1, 5, 9])
def test_a_continued_record_has_the_bytes_and_facts_of_an_undisturbed_one(
    codec: Codec, dies_at: int, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        _long(tmp_path / "killed", codec, Speaking(dies_at))
    assert _long(tmp_path / "killed", codec) == _long(tmp_path / "whole", codec)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")


def _alone(folder: Path) -> None:
    torch.set_num_threads(1)  # a fork has no threads of its parent
    _long(folder, SAMPLED, Speaking(pause=0.03))


def _kill_in_the_middle(folder: Path) -> None:
    """Record in a process of its own and kill it with SIGKILL when some shards are there."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(folder,))
    process.start()
    shards, end = folder / "work" / "shards", time.monotonic() + 60
    while len(list(shards.glob("*.safetensors"))) < 3 and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_sigkill_in_the_middle_changes_no_byte(tmp_path: Path) -> None:
    _kill_in_the_middle(tmp_path / "killed")
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed/work/shards").glob("*.safetensors")}
    assert 3 <= len(done) < 11
    facts = _long(tmp_path / "killed", SAMPLED)
    assert facts == _long(tmp_path / "whole", SAMPLED)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")
    for name, moment in done.items():
        assert (tmp_path / "killed/work/shards" / name).stat().st_mtime_ns == moment


def test_shards_of_other_sizes_hold_the_same_sample(tmp_path: Path) -> None:
    _long(tmp_path / "four", SAMPLED)
    (tmp_path / "nine").mkdir()
    record(Speaking(), LONG, tmp_path / "nine", tmp_path / "nine" / "content", settings=RecordSettings(SAMPLED, 3, 9))
    both = [RecordedTeacher(tmp_path / name / "content", "").answer(LONG["train"]) for name in ("four", "nine")]
    assert all(rows.sampled is not None for rows in both)
    first, second = (rows.sampled[2.0].ids for rows in both if rows.sampled is not None)
    assert (first == second).double().mean() > 0.99


def test_k_is_chosen_once_for_a_target(tmp_path: Path) -> None:
    codec = TopkCodec(TopkCodec.Settings(target=Target(kl=0.01)))
    with pytest.raises(Killed):
        _long(tmp_path, codec, Speaking(dies_at=3))  # the probe, a shard, and the end
    chosen = (tmp_path / "work" / "codec.json").read_text()
    again = Speaking()
    facts = _long(tmp_path, codec, again)
    assert (tmp_path / "work" / "codec.json").read_text() == chosen
    assert facts["fidelity"]["kl"] < 0.02
    assert 1 < RecordedTeacher(tmp_path / "content", "").codec.settings.k < VOCABULARY - 1
    assert again.calls == 11 - 1 + 1  # the other shards, and the comparison at the end


def test_the_record_says_what_it_takes_and_what_it_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _long(tmp_path / "topk", TOPK)
    _long(tmp_path / "sampled", SAMPLED)
    _record(Counting(), tmp_path / "full")
    lines = [line for line in capsys.readouterr().err.splitlines() if "bytes a row" in line]
    assert "topk, 36 bytes a row; at temperature 1: gradient error" in lines[0]
    assert "at temperature 2: gradient error" in lines[0]
    assert "KL" in lines[0]
    assert "standard errors" in lines[1]
    assert "full, 6 bytes a row; at temperature 1: gradient error" in lines[2]


def test_a_damaged_shard_stops_a_continued_record(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _long(tmp_path, TOPK, Speaking(dies_at=4))
    path = tmp_path / "work" / "shards" / "train-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AttarError, match=r"train-000001\.safetensors is damaged"):
        _long(tmp_path, TOPK)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_teacher_whose_tokens_change_stops_the_run(codec: Codec, tmp_path: Path) -> None:
    class Fickle(Speaking):
        change: Callable[[Rows], Rows]

        def answer(self, examples: Examples) -> Rows:
            rows = super().answer(examples)
            return rows if self.calls <= 11 else self.change(rows)

    teacher = Fickle()
    teacher.change = lambda rows: Rows(rows.key, rows.weight, -rows.dense())
    with pytest.raises(AttarError, match=r"they must agree to 0.1"):
        _long(tmp_path / "a", codec, teacher)
    teacher = Fickle()
    teacher.change = lambda rows: rows.take(slice(1, None))
    with pytest.raises(AttarError, match=r"gives \d+ rows where its record has \d+"):
        _long(tmp_path / "b", codec, teacher)


def test_nothing_to_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="no example to record"):
        record(Counting(), {"train": _texts(0)}, tmp_path / "w", tmp_path / "c")
    silent_teacher = Speaking()
    silent_teacher.gives = frozenset({"top"})
    with pytest.raises(AttarError, match="scores of every choice; this teacher gives top"):
        record(silent_teacher, LONG, tmp_path / "w", tmp_path / "c")
    silent = {"train": Examples(np.array([5, 10]), ["a", "b"], np.zeros(2, int))}
    with pytest.raises(AttarError, match="gave no row"):
        record(Speaking(), silent, tmp_path / "w", tmp_path / "c")
