"""Data of text pairs: each text keeps its target, from the file to the split and back from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from attar.core.examples import UNKNOWN, DataSet
from attar.errors import AttarError
from attar.sources import data
from attar.sources.data import DataSettings
from attar.sources.data_settings import combinations

PARTS = ("train", "validation", "test")
BASIC = {"source": "a.jsonl", "text": "review", "target": "title"}
Pairs = list[tuple[Any, Any]]


def write(folder: Path, rows: Pairs, name: str = "a.jsonl") -> None:
    lines = [json.dumps({"review": text, "title": title}) for text, title in rows]
    (folder / name).write_text("\n".join(lines))


def plain(count: int, first: int = 0) -> Pairs:
    return [(f"review {i}", f"title {i}") for i in range(first, first + count)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write(tmp_path, plain(100))
    return tmp_path


def read(base: Path, **keys: Any) -> DataSet:
    return data.read(DataSettings(**{**BASIC, **keys}), base, base / "cache", 0)


def together(found: DataSet) -> dict[str, str]:
    """Return text -> target over all splits, and check that no text stands in two."""
    pairs = [pair for part in PARTS for pair in zip(*_columns(found, part), strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _columns(found: DataSet, part: str) -> tuple[list[str], list[str]]:
    examples = getattr(found, part)
    return list(examples.inputs), list(examples.targets)


def test_pairs_have_targets_and_no_classes(base: Path) -> None:
    found = read(base)
    assert found.labels == ()
    assert [len(getattr(found, part)) for part in PARTS] == [65, 15, 20]
    assert together(found) == dict(plain(100))
    for part in PARTS:
        examples = getattr(found, part)
        assert examples.labels.dtype == np.int64
        assert (examples.labels == UNKNOWN).all()
        assert found.split(part).targets == examples.targets
    assert found.facts["counts"] == {"train": {"texts": 65}, "validation": {"texts": 15}, "test": {"texts": 20}}
    json.dumps(dict(found.facts), allow_nan=False)


def test_the_same_pairs_in_another_order_or_format_split_alike(base: Path) -> None:
    first = read(base)
    rows = [(f" {text} ", f"{title}\n") for text, title in reversed(plain(100))]
    table = pyarrow.table({"title": [t for _, t in rows], "review": [r for r, _ in rows]})
    pyarrow.parquet.write_table(table, base / "b.parquet")
    (base / "b.csv").write_text("title,review\n" + "".join(f"{title.strip()},{text}\n" for text, title in rows))
    for name in ("b.parquet", "b.csv"):
        other = read(base, source=name)
        for part in PARTS:
            assert getattr(other, part).keys.tolist() == getattr(first, part).keys.tolist()
            assert _columns(other, part) == _columns(first, part)


def test_a_text_has_the_key_it_has_among_labeled_data(base: Path) -> None:
    (base / "l.csv").write_text("review,stars\n" + "".join(f"review {i},{i % 2}\n" for i in range(100)))
    labeled = data.read(DataSettings(source="l.csv", text="review", label="stars"), base, base, 0)
    keys = [{key for part in PARTS for key in getattr(some, part).keys.tolist()} for some in (labeled, read(base))]
    assert keys[0] == keys[1]


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    odd = [("", "a"), (None, "a"), ("no target", ""), ("none", None), ("blank", "  "), (" review 3", "title 3 ")]
    write(tmp_path, [*plain(40), *odd, ("review 4", "another"), ("review 5", None)])
    found = read(tmp_path)
    assert found.facts["dropped"] == {"empty": 2, "no_label": 4, "other_label": 0, "duplicate": 2, "also_in_test": 0}
    assert found.facts["conflicting_targets"] == 1
    assert together(found) == dict(plain(40))


def test_a_column_of_numbers_with_holes_has_targets_where_it_has_numbers(tmp_path: Path) -> None:
    table = pyarrow.table({"review": [f"r {i}" for i in range(21)], "title": [*range(20), None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    frame = pyarrow.table({"review": [f"r {i}" for i in range(21)], "title": [*map(float, range(20)), float("nan")]})
    pyarrow.parquet.write_table(frame, tmp_path / "b.parquet")
    assert together(read(tmp_path, source="a.parquet"))["r 7"] == "7"
    for name in ("a.parquet", "b.parquet"):
        assert read(tmp_path, source=name).facts["dropped"]["no_label"] == 1


def test_texts_and_targets_are_cut_apart(tmp_path: Path) -> None:
    write(tmp_path, [(f"{i:03} long text", f"t{i % 10} long title" if i % 2 else f"t{i % 10}") for i in range(40)])
    found = read(tmp_path, max_target_characters=3)
    assert together(found) == {f"{i:03} long text": f"t{i % 10}" for i in range(40)}
    assert (found.facts["shortened"], found.facts["shortened_targets"]) == (0, 20)
    found = read(tmp_path, max_characters=6)
    assert together(found)["001 lo"] == "t1 long title"
    assert (found.facts["shortened"], found.facts["shortened_targets"]) == (40, 0)


def test_targets_are_cut_before_they_are_compared(tmp_path: Path) -> None:
    write(tmp_path, [*plain(20), ("review 0", "title 0 and more"), ("review 1", "other")])
    assert read(tmp_path).facts["conflicting_targets"] == 2
    assert read(tmp_path, max_target_characters=7).facts["conflicting_targets"] == 1


def test_an_official_test_set_wins_over_train(base: Path) -> None:
    write(base, [*plain(30, first=90), ("review 0", "another"), ("review 200", "")], "t.jsonl")
    found = read(base, test_source="t.jsonl")
    assert together(found) == {**dict(plain(120)), "review 0": "another"}
    assert (len(found.test), len(found.train) + len(found.validation)) == (31, 89)
    assert found.facts["dropped"]["also_in_test"] == 11
    assert found.facts["conflicting_targets"] == 1
    assert found.facts["test_dropped"]["no_label"] == 1


def test_rows_without_a_target_serve_a_train_split_that_uses_none(tmp_path: Path) -> None:
    write(tmp_path, [*plain(20), *((f"only text {i}", None) for i in range(30))])
    found = read(tmp_path, gold=["validation", "test"])
    assert found.facts["counts"]["train"] == {"texts": 43, "without_target": 30}
    assert list(found.train.targets or ()).count("") == 30
    assert found.split("train").targets is None
    assert all(found.split("validation").targets or [""])
    assert all(found.split("test").targets or [""])
    assert len(read(tmp_path).train) == 13


def test_targets_are_hidden_where_gold_forbids_them(base: Path) -> None:
    found = read(base, gold=["test"], train=30)
    assert found.split("train").targets is None
    assert found.split("validation").targets is None
    assert found.split("test").targets == found.test.targets
    assert found.spare is not None
    assert (len(found.spare), found.spare.targets) == (35, None)


def test_a_source_without_targets_may_stand_beside_a_test_set_that_has_them(base: Path) -> None:
    (base / "u.csv").write_text("review\n" + "\n".join(f"only text {i}" for i in range(50)))
    keys = {"source": "u.csv", "test_source": "a.jsonl", "gold": ["test"]}
    assert data.quick_check(DataSettings(**{**BASIC, **keys}), base) == []
    found = read(base, **keys)
    assert (len(found.test), len(found.train), len(found.validation)) == (100, 42, 8)
    assert dict(zip(found.test.inputs, found.test.targets or (), strict=True)) == dict(plain(100))
    assert not any(found.train.targets or ["missing"])
    with pytest.raises(AttarError, match="no column 'title'"):
        read(base, source="u.csv", test_source="a.jsonl")


def test_a_hubs_folder_gives_pairs_with_its_test_split(tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, first, count in (("train", 0, 40), ("test", 100, 10)):
        rows = plain(count, first)
        table = pyarrow.table({"review": [text for text, _ in rows], "title": [title for _, title in rows]})
        pyarrow.parquet.write_table(table, tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    found = read(tmp_path, source="hub")
    assert together(found) == dict(plain(40) + plain(10, 100))
    assert sorted(found.test.inputs) == sorted(text for text, _ in plain(10, 100))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"target": "titel"}, "has no column 'titel'. Did you mean 'title'?"),
        ({"label": "title"}, "label and target are both given"),
        ({"labels": [1, 2]}, "labels lists classes, and target texts have none"),
        ({"balance": True}, "balance needs classes, and target texts have none"),
        ({"text": None, "image": "review"}, "image and target are both given"),
        ({"target": "review"}, "text and target both name 'review'"),
        ({"target": None, "max_target_characters": 9}, "label is not given, so no gold labels are known"),
        ({"text": None}, "name either text or image"),
        ({"source": "lists.jsonl"}, "the target of row 2 is a list"),
        ({"source": "bare.jsonl"}, "is left of 2 rows; dropped: no_label 2. Look at the columns"),
        ({"source": "bare.jsonl", "gold": ["test"]}, "column 'title' of source 'bare.jsonl' holds no text, and gold"),
        ({"source": "sklearn:digits", "text": None}, "has no columns. Leave out target"),
        ({"train": 90}, "train 90 + validation 15 + test 20 = 125 examples are asked for, and 100 are there"),
    ],
)
def test_each_mistake_is_said(base: Path, keys: dict[str, Any], said: str) -> None:
    write(base, [("a", "b"), ("c", ["d"])], "lists.jsonl")
    write(base, [("a", ""), ("b", None)], "bare.jsonl")
    with pytest.raises(AttarError) as caught:
        read(base, **keys)
    assert said in str(caught.value)


def test_a_limit_on_targets_needs_targets() -> None:
    mistakes = combinations(DataSettings(source="a.csv", text="x", label="y", max_target_characters=9))
    assert len(mistakes) == 1
    assert mistakes[0].startswith("max_target_characters is given without a target")


def test_quick_check_gives_all_mistakes_without_reading_rows(base: Path) -> None:
    settings = DataSettings(**{**BASIC, "target": "titel", "balance": True, "labels": ["a", "b"]})
    messages = data.quick_check(settings, base)
    assert len(messages) == 3
    assert messages[2].endswith("has no column 'titel'. Did you mean 'title'?")
    assert data.quick_check(DataSettings(**BASIC), base) == []


def test_saving_and_loading_keeps_pairs_together(base: Path) -> None:
    write(base, [*plain(60), *((f"only text {i}", None) for i in range(9)), ("red \ud800 hat", "\U0001f600 \ud800")])
    found = read(base, gold=["validation", "test"], train=20)
    data.save(found, base / "saved")
    back = data.load(base / "saved")
    assert (back.labels, back.gold, back.facts) == ((), found.gold, dict(found.facts))
    for part in PARTS:
        assert getattr(back, part).keys.tolist() == getattr(found, part).keys.tolist()
        assert _columns(back, part) == _columns(found, part)
        assert getattr(back, part).labels.tolist() == getattr(found, part).labels.tolist()
    assert found.spare is not None
    assert back.spare is not None
    assert (list(back.spare.inputs), back.spare.targets) == (found.spare.inputs, None)


def test_a_folder_written_before_there_were_targets_still_loads(tmp_path: Path) -> None:
    for part in PARTS:
        table = pyarrow.table({"key": [7, 8], "text": ["a", "b"], "label": [0, 1]})
        pyarrow.parquet.write_table(table, tmp_path / f"{part}.parquet")
    card = {"schema": 1, "kind": "texts", "labels": ["x", "y"], "gold": ["test"], "parts": list(PARTS), "facts": {}}
    (tmp_path / "data.json").write_text(json.dumps(card))
    back = data.load(tmp_path)
    assert back.train.targets is None
    assert back.test.labels.tolist() == [0, 1]


def test_the_seed_decides_which_pairs_are_tested_on(base: Path) -> None:
    one, again, other = (data.read(DataSettings(**BASIC), base, base / "cache", seed) for seed in (0, 0, 1))
    assert one.test.keys.tolist() == again.test.keys.tolist()
    assert set(one.test.keys.tolist()) != set(other.test.keys.tolist())
    assert together(other) == together(one)


def test_classes_of_a_hub_are_targets_by_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.Features({"review": datasets.Value("string"), "title": datasets.ClassLabel(names=["hat", "shoe"])})
    rows = {"review": [f"review {i}" for i in range(20)], "title": [i % 2 for i in range(20)]}
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict(rows, features=kind).to_parquet(str(tmp_path / "hub" / "train.parquet"))
    assert together(read(tmp_path, source="hub")) == {f"review {i}": ["hat", "shoe"][i % 2] for i in range(20)}
