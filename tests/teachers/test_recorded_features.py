from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.rows import example_rows
from attar.errors import AttarError
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.shard import frame, write
from attar.teachers.feature_shards import frozen, time_dims
from attar.teachers.feature_shards import write_index as index_features
from attar.teachers.recorded import INDEX, RecordedTeacher, write_index
from attar.teachers.recorded_features import RecordedFeatures

WIDTH, HEADS = 5, 2
LENGTHS = {30: 3, 10: 1, 40: 4, 20: 2, 50: 6, 60: 2}
SHARDS = {"train-000000": (40, 10), "train-000001": (30, 60, 20), "validation-000000": (50,)}


def _own(key: int) -> dict[str, torch.Tensor]:
    """Return the features of one example, without padding, exact in float16."""
    random, time = torch.Generator().manual_seed(key), LENGTHS[key]
    draw = {"hidden:-1": (time, WIDTH), "attention:0": (HEADS, time, time), "pooled": (WIDTH,), "map": (3, 2, 2)}
    found = {name: torch.randn(shape, generator=random).half().float() for name, shape in draw.items()}
    return {**found, "mask": torch.ones(time, dtype=torch.bool)}


def _padded(*keys: int, junk: float = 0.0) -> dict[str, torch.Tensor]:
    """Return the features of some examples, one after the other in a loop, padded to the longest."""
    time = max(LENGTHS[key] for key in keys)
    found = {
        "hidden:-1": torch.full((len(keys), time, WIDTH), junk),
        "attention:0": torch.full((len(keys), HEADS, time, time), junk),
        "pooled": torch.zeros(len(keys), WIDTH),
        "map": torch.zeros(len(keys), 3, 2, 2),
        "mask": torch.zeros(len(keys), time, dtype=torch.bool),
    }
    for place, key in enumerate(keys):
        for name, tensor in _own(key).items():
            found[name][place][tuple(slice(size) for size in tensor.shape)] = tensor
    return found


def _logits(keys: torch.Tensor) -> torch.Tensor:
    return torch.stack([keys.float(), -keys.float()], dim=1) / 64


def _record(folder: Path, shards: Any = SHARDS, junk: float = 0.0) -> RecordedFeatures:
    codec = FullCodec(FullCodec.Settings())
    for name, keys in shards.items():
        rows = example_rows(torch.tensor(keys), _logits(torch.tensor(keys)))
        tensors = {**frame(rows, np.array(keys), np.ones(len(keys), int)), **codec.encode(rows)}
        write(folder / "answers" / f"{name}.safetensors", tensors, {"rows": len(keys), "choices": 2})
        shown = frozen(_padded(*keys, junk=junk), np.array(keys))
        write(folder / "features" / f"{name}.safetensors", shown, {})
    write_index(folder / "answers", codec)
    index_features(folder / "features")
    return RecordedFeatures(RecordedTeacher(folder / "answers", "print"), folder / "features")


def _ask(*keys: int) -> Examples:
    return Examples(np.array(keys, np.int64), ["x"] * len(keys), np.zeros(len(keys), int))


@pytest.mark.parametrize("asked", [(50, 10, 30), (20,), (60, 40, 20, 10, 50, 30), (30, 30), (10, 20)], ids=str)
def test_any_order_gives_features_in_that_order_padded_to_the_longest_asked(
    asked: tuple[int, ...], tmp_path: Path
) -> None:
    rows = _record(tmp_path).answer(_ask(*asked))
    wanted = _padded(*asked)
    assert set(rows.features) == set(wanted)
    for name, tensor in wanted.items():
        assert rows.features[name].dtype == tensor.dtype
        assert torch.equal(rows.features[name], tensor), name


def test_scores_are_those_of_the_record(tmp_path: Path) -> None:
    teacher = _record(tmp_path)
    said, plain = teacher.answer(_ask(50, 10, 30)), teacher.teacher.answer(_ask(50, 10, 30))
    assert torch.equal(said.key, plain.key)
    assert torch.equal(said.dense(), plain.dense())
    assert teacher.gives == {"logits", "hard", "features"}
    assert teacher.fingerprint == "print"


def test_what_stood_in_padding_stays_in_padding(tmp_path: Path) -> None:
    features = _record(tmp_path, junk=7.0).answer(_ask(10, 30, 40)).features
    assert features["hidden:-1"].shape == (3, 4, WIDTH)
    for place, key in enumerate((10, 30, 40)):
        assert torch.equal(features["hidden:-1"][place, : LENGTHS[key]], _own(key)["hidden:-1"])
        assert features["mask"][place].tolist() == [at < LENGTHS[key] for at in range(4)]


def test_a_width_that_is_a_length_by_chance_is_not_cut(tmp_path: Path) -> None:
    # in the first shard the texts are as long as the feature is high: 4; in the second they are not
    keys, tall = {"a": (40, 10), "b": (50,)}, {key: torch.arange(8.0).reshape(4, 2) + key for key in (40, 10, 50)}
    for name, group in keys.items():
        features = {"part": torch.stack([tall[key] for key in group]), "mask": _padded(*group)["mask"]}
        write(tmp_path / f"{name}.safetensors", frozen(features, np.array(group)), {})
    index_features(tmp_path)
    shards = RecordedFeatures(_record(tmp_path / "scores").teacher, tmp_path).shards
    found = shards.read(np.array([10]))
    assert found["mask"].shape == (1, 1)
    assert torch.equal(found["part"][0], tall[10])


def test_no_example_has_no_features(tmp_path: Path) -> None:
    rows = _record(tmp_path).answer(_ask())
    assert len(rows) == 0
    assert rows.features == {}


def test_features_of_images_have_no_time(tmp_path: Path) -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    write(tmp_path / "a.safetensors", frozen({"map": maps}, np.array([5, 3])), {})
    index_features(tmp_path)
    shards = RecordedFeatures(_record(tmp_path / "scores").teacher, tmp_path).shards
    assert torch.equal(shards.read(np.array([3, 5, 3]))["map"], maps[[1, 0, 1]])


def test_an_example_that_was_never_recorded_is_refused(tmp_path: Path) -> None:
    shards = _record(tmp_path).shards
    with pytest.raises(AttarError, match="features of 2 examples were never recorded"):
        shards.read(np.array([10, 11, 70]))


def test_only_the_shards_that_are_asked_are_opened(tmp_path: Path) -> None:
    (first,) = [path for path in (_record(tmp_path).shards._folder).glob("validation-*")]
    teacher = RecordedFeatures(RecordedTeacher(tmp_path / "answers", ""), tmp_path / "features")
    blob = bytearray(first.read_bytes())
    blob[-1] ^= 1
    first.write_bytes(bytes(blob))
    assert len(teacher.answer(_ask(40, 20)).features["pooled"]) == 2
    with pytest.raises(AttarError, match="its checksum differs"):
        teacher.answer(_ask(40, 50))


def test_a_folder_without_an_index_is_no_record(tmp_path: Path) -> None:
    _record(tmp_path)
    (tmp_path / "features" / INDEX).unlink()
    with pytest.raises(AttarError, match="holds no recorded features"):
        RecordedFeatures(RecordedTeacher(tmp_path / "answers", ""), tmp_path / "features")
    with pytest.raises(AttarError, match="holds no recorded features"):
        index_features(tmp_path / "nowhere")


@pytest.mark.parametrize(("value", "said"), [(70000.0, "reaches 7e\\+04"), (float("nan"), "reaches nan")])
def test_what_float16_cannot_hold_is_refused(value: float, said: str) -> None:
    with pytest.raises(AttarError, match=rf"'pooled' of the teacher {said}.*record_features to false"):
        frozen({"pooled": torch.tensor([[1.0, value]])}, np.array([3]))


def test_a_feature_has_one_entry_an_example() -> None:
    with pytest.raises(AttarError, match="'encoder' of the teacher has 7 entries for 2 examples"):
        frozen({"encoder": torch.zeros(7, 2, 4)}, np.array([1, 2]))


@pytest.mark.parametrize(
    ("name", "shape", "dims"),
    [
        ("mask", (2, 7), (1,)),
        ("pooled", (2, 7), ()),
        ("hidden:1", (2, 7, 7), (1,)),
        ("query:1", (2, 6, 7), ()),
        ("attention:1", (2, 7, 7, 7), (2, 3)),
        ("map", (2, 7, 7, 7), ()),
    ],
)
def test_time_is_where_objectives_look_for_it(name: str, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    assert time_dims(name, shape, 7) == dims
