from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.stages.record import PROBE, RecordSettings, record
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.recorded import RecordedTeacher
from attar.teachers.recorded_features import RecordedFeatures

SIZE = 8
SETTINGS = RecordSettings(shard=SIZE, features=True)


class Killed(Exception):
    """Stand for the kill of the process."""


class Showing:
    """Answer and show features by key, count what it is asked, and die where told."""

    gives = frozenset({"logits", "hard", "features"})
    fingerprint = "showing"

    def __init__(self, dies_at: int | None = None, seconds: float = 0.0) -> None:
        self.asked: list[int] = []
        self.calls, self.dies_at, self.seconds = 0, dies_at, seconds

    def answer(self, examples: Examples) -> Rows:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        time.sleep(self.seconds)
        self.asked += examples.keys.tolist()
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return replace(example_rows(keys, _wave(keys, 3)), features=_features(examples))


def _wave(keys: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack([(keys.double() * k).sin().float() * 3 for k in range(1, count + 1)], dim=1)


def _features(examples: Examples) -> dict[str, torch.Tensor]:
    """Return features that tell example, place and channel, padded with 99."""
    sizes = torch.tensor([len(one) for one in examples.inputs])
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    pooled = _wave(torch.from_numpy(np.ascontiguousarray(examples.keys)), 4)
    hidden = pooled[:, None] + torch.arange(mask.shape[1])[None, :, None] / 3
    return {"pooled": pooled, "hidden:-1": torch.where(mask[..., None], hidden, 99.0), "mask": mask}


def _texts(count: int, first: int = 0) -> Examples:
    random = np.random.Generator(np.random.PCG64(first))
    inputs = ["x" * int(random.integers(1, 12)) for _ in range(count)]
    return Examples(np.arange(first, first + count) + 1000, inputs, np.zeros(count, int))


SPLITS = {"train": _texts(3 * SIZE + 5), "validation": _texts(7, 5000)}
TOTAL = 3 * SIZE + 12


def _record(teacher: Any, folder: Path, settings: RecordSettings = SETTINGS) -> dict[str, Any]:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return record(teacher, SPLITS, folder / "work", folder / "content" / "answers", None, settings)


def _kept(folder: Path) -> RecordedFeatures:
    content = folder / "content"
    return RecordedFeatures(RecordedTeacher(content / "answers", ""), content / "features")


def test_the_record_shows_what_the_teacher_showed_and_asks_it_once(tmp_path: Path) -> None:
    teacher = Showing()
    facts = _record(teacher, tmp_path)
    assert len(teacher.asked) == TOTAL + PROBE
    kept = _kept(tmp_path)
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(SPLITS["train"]))
    shuffled = SPLITS["train"].take(order)
    said, wanted = kept.answer(shuffled), _features(shuffled)
    assert torch.equal(said.features["mask"], wanted["mask"])
    assert torch.allclose(said.features["pooled"], wanted["pooled"], rtol=2**-11, atol=1e-6)
    real = wanted["mask"][..., None]
    assert torch.allclose(said.features["hidden:-1"] * real, wanted["hidden:-1"] * real, rtol=2**-11, atol=1e-6)
    names = [check["name"] for check in facts["preflight"]]
    assert names == ["live and recorded teacher agree", "live and recorded features agree"]
    assert all(check["passed"] for check in facts["preflight"])


def test_the_card_says_bytes_and_the_largest_error(tmp_path: Path) -> None:
    facts = _record(Showing(), tmp_path)["features"]
    assert facts["names"] == ["hidden:-1", "mask", "pooled"]
    pooled = torch.cat([_features(split)["pooled"] for split in SPLITS.values()]).double()
    apart = (pooled.half().double() - pooled).norm(dim=1) / pooled.norm(dim=1)
    assert facts["relative_error"]["pooled"] == pytest.approx(float(apart.max()), rel=1e-2)
    assert 0 < facts["relative_error"]["hidden:-1"] <= 2**-11
    assert facts["relative_error"]["mask"] == 0
    # of a shard's examples each takes 4 + time * 4 numbers of 2 bytes, and time bytes of mask
    places = 0
    for split in SPLITS.values():
        sizes = sorted(len(one) for one in split.inputs)
        parts = [sizes[first : first + SIZE] for first in range(0, len(sizes), SIZE)]
        places += sum(len(part) * max(part) for part in parts)
    assert facts["bytes_per_example"] == pytest.approx((TOTAL * 4 * 2 + places * (4 * 2 + 1)) / TOTAL, abs=0.05)


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    facts = _record(Showing(), tmp_path, replace(SETTINGS, features=False))
    assert "features" not in facts
    assert [path.name for path in (tmp_path / "content").iterdir()] == ["answers"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["shards"]


@pytest.mark.parametrize("dies_at", [1, 3, 5, 6])
def test_a_continued_record_asks_nothing_again_and_is_the_same(dies_at: int, tmp_path: Path) -> None:
    first, second, home = Showing(dies_at), Showing(), tmp_path / "killed"
    with pytest.raises(Killed):
        _record(first, home)
    facts = _record(second, home)
    again = second.asked[:-PROBE]
    assert not set(first.asked) & set(again)
    assert len(first.asked) + len(again) == TOTAL
    assert facts == _record(Showing(), tmp_path / "undisturbed")
    for path in sorted((home / "content" / "features").iterdir()):
        assert path.read_bytes() == (tmp_path / "undisturbed" / "content" / "features" / path.name).read_bytes()


def test_answers_without_their_features_are_asked_again(tmp_path: Path) -> None:
    _record(Showing(), tmp_path)
    (tmp_path / "work" / "features" / "train-000001.safetensors").unlink()
    teacher = Showing()
    _record(teacher, tmp_path)
    assert len(teacher.asked) == SIZE + PROBE
    assert len(_kept(tmp_path).answer(SPLITS["train"]).features["pooled"]) == len(SPLITS["train"])


def _slowly(folder: Path) -> None:
    _record(Showing(seconds=0.05), folder)


def test_a_killed_record_goes_on_from_its_last_shard(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_slowly, args=(tmp_path,))
    process.start()
    shards = tmp_path / "work" / "shards"
    deadline = time.monotonic() + 20
    while len(list(shards.glob("*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.pid is not None
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = len(list(shards.glob("[!.]*.safetensors")))
    teacher = Showing()
    _record(teacher, tmp_path)
    assert len(teacher.asked) <= TOTAL - done * 7 + PROBE
    kept, wanted = _kept(tmp_path).answer(SPLITS["train"]), _features(SPLITS["train"])
    assert torch.allclose(kept.features["pooled"], wanted["pooled"], rtol=2**-11, atol=1e-6)


class Confused(Showing):
    """Show other features when asked again: those of the examples in another order."""

    def answer(self, examples: Examples) -> Rows:
        rows = super().answer(examples)
        if len(self.asked) <= TOTAL:
            return rows
        return replace(rows, features={name: tensor.roll(1, 0) for name, tensor in rows.features.items()})


def test_features_of_other_examples_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match=r"live teacher and its record differ by .* of its size"):
        _record(Confused(), tmp_path)


class Silent(Showing):
    """Show nothing."""

    gives = frozenset({"logits", "hard"})


def test_a_teacher_without_features_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    teacher = Silent()
    with pytest.raises(AttarError, match="gives no features to record"):
        _record(teacher, tmp_path)
    assert teacher.asked == []


def test_a_classifiers_recorded_features_are_its_live_ones(text_student: Any, texts: Examples, tmp_path: Path) -> None:
    names = frozenset({"hidden:-1", "attention:0", "pooled"})
    live = ClassifierTeacher(text_student, TextClassification(), "print", features=names)
    (tmp_path / "work").mkdir()
    settings = RecordSettings(shard=3, features=True)
    record(live, {"train": texts}, tmp_path / "work", tmp_path / "content" / "answers", None, settings)
    some = texts.take(np.array([6, 1, 4]))
    kept, wanted = _kept(tmp_path).answer(some).features, live.answer(some).features
    assert set(kept) == set(wanted)
    assert torch.equal(kept["mask"], wanted["mask"])
    mask = wanted["mask"].float()
    spread = {"hidden:-1": mask[..., None], "attention:0": mask[:, None, :, None], "pooled": torch.ones(1)}
    for name, real in spread.items():
        assert kept[name].shape == wanted[name].shape
        assert torch.allclose(kept[name] * real, wanted[name] * real, rtol=1e-3, atol=1e-4), name
