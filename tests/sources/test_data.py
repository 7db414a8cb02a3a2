"""Data: from a file to clean splits, with every mistake said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from attar.core.examples import UNKNOWN
from attar.errors import AttarError
from attar.sources import data
from attar.sources.data import DataSettings
from attar.sources.labels import canonical
from attar.store.files import sha256_file

PARTS = ("train", "validation", "test")
BASIC = {"source": "a.csv", "text": "review", "label": "stars"}


def csv(folder: Path, rows: list[tuple[Any, Any]], name: str = "a.csv") -> None:
    (folder / name).write_text("review,stars\n" + "".join(f'"{text}",{stars}\n' for text, stars in rows))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    csv(tmp_path, [(f"review {i}", i % 5 + 1) for i in range(100)])
    return tmp_path


def read(base: Path, **keys: Any) -> data.DataSet:
    return data.read(DataSettings(**{**BASIC, **keys}), base, base / "cache", 0)


def test_the_shortest_recipe_works(base: Path) -> None:
    found = read(base)
    assert found.labels == ("1", "2", "3", "4", "5")
    assert [len(getattr(found, part)) for part in PARTS] == [65, 15, 20]
    for part in PARTS:
        examples = getattr(found, part)
        assert [int(text.split()[1]) % 5 for text in examples.inputs] == examples.labels.tolist()
        assert examples.keys.dtype == np.int64
    assert found.facts["counts"]["test"] == dict.fromkeys("12345", 4)
    json.dumps(dict(found.facts), allow_nan=False)


def test_the_same_examples_in_another_order_or_format_split_alike(base: Path) -> None:
    first = read(base)
    rows = [(f" review {i} ", i % 5 + 1) for i in reversed(range(100))]
    table = pyarrow.table({"review": [t for t, _ in rows], "stars": [float(s) for _, s in rows]})
    pyarrow.parquet.write_table(table, base / "b.parquet")
    (base / "b.jsonl").write_text("\n".join(json.dumps({"review": t, "stars": s}) for t, s in rows))
    for name in ("b.parquet", "b.jsonl"):
        other = read(base, source=name)
        assert other.labels == first.labels
        for part in PARTS:
            assert getattr(other, part).keys.tolist() == getattr(first, part).keys.tolist()
            assert getattr(other, part).labels.tolist() == getattr(first, part).labels.tolist()


def test_a_mapping_keeps_its_values_and_balance_evens_the_classes(base: Path) -> None:
    labels = {"bad": [1, "2"], "good": [5.0]}
    found = read(base, labels=labels, balance=True, train=20, validation=6, test=8)
    assert found.labels == ("bad", "good")
    assert found.facts["dropped"]["other_label"] == 40
    assert found.facts["counts"] == {
        "train": {"bad": 10, "good": 10},
        "validation": {"bad": 3, "good": 3},
        "test": {"bad": 4, "good": 4},
    }


def test_a_list_sets_the_order_of_the_classes(base: Path) -> None:
    found = read(base, labels=[5, 1])
    assert found.labels == ("5", "1")
    assert found.facts["dropped"]["other_label"] == 60


def test_values_compare_as_people_read_them() -> None:
    assert [
        canonical(v) for v in (1, 1.0, "1.0", " 1 ", True, "TRUE", "007", "1.50", "-2.0", None, "", float("nan"))
    ] == [*("1", "1", "1", "1", "true", "true", "007", "1.5", "-2", None, None, None)]


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    rows = [(f"text {i}", i % 2) for i in range(40)]
    csv(tmp_path, [*rows, ("", 1), ("   ", 0), (" text 3 ", 1), ("text 4", 1), ("unlabeled", "")])
    found = read(tmp_path)
    assert found.facts["dropped"] == {"empty": 2, "no_label": 1, "other_label": 0, "duplicate": 2, "also_in_test": 0}
    assert found.facts["conflicting_labels"] == 1
    everything = np.concatenate([getattr(found, part).keys for part in PARTS])
    assert len(everything) == len(set(everything.tolist())) == 40


def test_an_official_test_set_wins_over_train(base: Path) -> None:
    csv(base, [(f"review {i}", i % 5 + 1) for i in range(90, 120)] + [("review 0", 5)], "t.csv")
    found = read(base, test_source="t.csv")
    assert len(found.test) == 31
    assert found.facts["dropped"]["also_in_test"] == 11
    assert found.facts["conflicting_labels"] == 1
    assert not set(found.test.keys.tolist()) & set(found.train.keys.tolist()) | set(found.test.keys.tolist()) & set(
        found.validation.keys.tolist()
    )
    csv(base, [("x", 1), ("y", 9)], "t.csv")
    with pytest.raises(AttarError, match="the test set has the label '9'"):
        read(base, test_source="t.csv")


def test_texts_are_cut_before_they_are_compared(tmp_path: Path) -> None:
    csv(tmp_path, [(f"{i:03} {'x' * (i % 3)}", i % 2) for i in range(40)] + [("000 and more", 0)])
    found = read(tmp_path, max_characters=4)
    assert found.facts["dropped"]["duplicate"] == 1
    assert max(len(text) for text in found.train.inputs) == 3  # the cut leaves no white space at the end


def test_broken_characters_become_the_replacement_character(tmp_path: Path) -> None:
    rows = [{"review": f"{i} \ud800 \U0001f600", "stars": i % 2} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = read(tmp_path, source="a.jsonl")
    assert all(text.endswith(" \ufffd \U0001f600") for text in found.train.inputs)
    data.save(found, tmp_path / "saved")
    assert data.load(tmp_path / "saved").train.inputs == found.train.inputs


def test_rows_without_a_label_serve_a_train_split_that_uses_none(tmp_path: Path) -> None:
    csv(tmp_path, [(f"a {i}", i % 2) for i in range(20)] + [(f"b {i}", "") for i in range(30)])
    found = read(tmp_path, gold=["validation", "test"])
    assert found.facts["counts"]["train"]["(unknown)"] == 30
    assert (found.split("train").labels == UNKNOWN).all()
    assert (found.split("test").labels != UNKNOWN).all()


def test_no_gold_at_all_needs_no_label_column(base: Path) -> None:
    found = read(base, label=None, labels=["bad", "good"], gold=[])
    assert found.labels == ("bad", "good")
    assert [len(getattr(found, part)) for part in PARTS] == [65, 15, 20]
    assert (found.test.labels == UNKNOWN).all()


def test_a_source_without_labels_may_stand_beside_a_labeled_test_set(base: Path) -> None:
    (base / "u.csv").write_text("review\n" + "\n".join(f"only text {i}" for i in range(50)))
    keys = {"source": "u.csv", "test_source": "a.csv", "gold": ["test"]}
    assert data.quick_check(DataSettings(**{**BASIC, **keys}), base) == []
    found = read(base, **keys)
    assert found.labels == ("1", "2", "3", "4", "5")
    assert (len(found.test), len(found.train), len(found.validation)) == (100, 42, 8)
    with pytest.raises(AttarError, match="no column 'stars'"):
        read(base, source="u.csv", test_source="a.csv")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"source": "b.csv"}, "Did you mean 'a.csv'?"),
        ({"text": "reveiw"}, "has no column 'reveiw'. Did you mean 'review'?"),
        ({"text": None}, "name either text or image"),
        ({"text": "review", "image": "review"}, "text and image are both given"),
        ({"label": None}, "label is not given, so no gold labels are known"),
        ({"label": None, "gold": []}, "label and labels are not given"),
        ({"label": None, "gold": [], "labels": [1, 2], "balance": True}, "balance needs gold labels"),
        ({"labels": {"a": [1], "b": [7]}}, "the value '7', which occurs nowhere in column 'stars' of a.csv"),
        ({"train": 90}, "train 90 + validation 15 + test 20 = 125 examples are asked for, and 100 are there"),
        ({"test_sha256": "0" * 64}, "test_sha256 is given without a test_source"),
        ({"sha256": "0" * 64}, "but the recipe says 0000"),
        ({"format": "images"}, "has no columns"),
        ({"format": "jsonl", "skip_rows": 1}, "Leave out skip_rows"),
        ({"channels": 1}, "Leave out image_size and channels"),
        ({"format": "hub"}, "must be a folder"),
        ({"source": "notes.xyz"}, "Set format to one of"),
        ({"source": "empty.csv"}, "is empty"),
        ({"source": "head.csv"}, "has a header but no rows"),
        ({"source": "blank.csv"}, "holds no value"),
        ({"source": "one.csv"}, "holds only '1', and at least 2 classes are needed"),
        ({"source": "many.csv"}, "1100 different values, too many for classes"),
        ({"source": "void.csv"}, "no example of source 'void.csv' is left of 2 rows; dropped: empty 2"),
        ({"source": "half.csv"}, "class '2' has no example left"),
        ({"source": "."}, "cannot be read as a data set of a hub"),
    ],
)
def test_each_mistake_is_said(base: Path, keys: dict[str, Any], said: str) -> None:
    (base / "notes.xyz").write_text("x")
    (base / "empty.csv").touch()
    csv(base, [], "head.csv")
    csv(base, [("a", ""), ("b", "")], "blank.csv")
    csv(base, [("a", 1), ("b", 1)], "one.csv")
    csv(base, [(f"t {i}", i) for i in range(1100)], "many.csv")
    csv(base, [("", 1), (" ", 2)], "void.csv")
    csv(base, [("a", 1), ("", 2)], "half.csv")
    with pytest.raises(AttarError) as caught:
        read(base, **keys)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"validation": 1.5}, "a fraction between 0 and 1, got 1.5"),
        ({"test": 0}, "at least 1 example"),
        ({"test": True}, "valid"),
        ({"train": 0}, "greater than or equal to 1"),
        ({"labels": {"a": [1], "b": [1]}}, "must name each value once"),
        ({"labels": {"a": [1], "b": []}}, "must give class 'b' at least one value"),
        ({"labels": ["a"]}, "at least 2 classes"),
        ({"channels": 2}, "channels"),
        ({"gold": ["dev"]}, "gold"),
        ({"txt": "a"}, "txt"),
    ],
)
def test_settings_out_of_range_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DataSettings(**{**BASIC, **keys})


def test_every_setting_is_described() -> None:
    assert [name for name, field in DataSettings.model_fields.items() if not field.description] == []


def test_quick_check_gives_all_mistakes_without_reading_rows(base: Path) -> None:
    settings = DataSettings(source="b.csv", test_source="a.csv", test_sha256="12", text="x", label="stars")
    messages = data.quick_check(settings, base)
    assert len(messages) == 2
    assert "does not exist" in messages[0]
    assert "64 hex digits" in messages[1]
    assert "no column 'x'" in data.quick_check(DataSettings(**{**BASIC, "text": "x"}), base)[0]
    assert "sha256 is required" in data.quick_check(DataSettings(**{**BASIC, "source": "pypi:a==1#a.csv"}), base)[0]
    assert "is a folder" in data.quick_check(DataSettings(**{**BASIC, "source": ".", "format": "csv"}), base)[0]
    (base / "a.csv").write_text("review,stars\nragged\n")  # rows are not looked at
    assert data.quick_check(DataSettings(**BASIC), base) == []


def test_fingerprint_follows_both_sources(base: Path) -> None:
    csv(base, [("x", 1)], "t.csv")
    alone, both = DataSettings(**BASIC), DataSettings(**BASIC, test_source="t.csv")
    before = data.fingerprint(alone, base), data.fingerprint(both, base)
    assert before[0] != before[1]
    csv(base, [("y", 1)], "t.csv")
    assert data.fingerprint(alone, base) == before[0]
    assert data.fingerprint(both, base) != before[1]


def test_a_checksum_that_agrees_is_accepted(base: Path) -> None:
    assert len(read(base, sha256=sha256_file(base / "a.csv")).train) == 65


def test_a_hubs_folder_is_read_with_its_test_split(tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, count in (("train", 40), ("test", 10)):
        table = pyarrow.table({"review": [f"{name} {i}" for i in range(count)], "stars": [i % 2 for i in range(count)]})
        pyarrow.parquet.write_table(table, tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    found = read(tmp_path, source="hub")
    assert [len(getattr(found, part)) for part in PARTS] == [34, 6, 10]
    assert found.facts["test_source"] == "the test set of hub"
    with pytest.raises(AttarError, match="has no column 'reveiw'"):
        read(tmp_path, source="hub", text="reveiw")


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_saving_and_loading_changes_nothing(base: Path, kind: str) -> None:
    found = read(base) if kind == "texts" else data.read(DataSettings(source="sklearn:digits"), base, base, 0)
    data.save(found, base / "saved")
    back = data.load(base / "saved")
    assert (back.labels, back.gold, back.facts) == (found.labels, found.gold, dict(found.facts))
    for part in PARTS:
        one, two = getattr(found, part), getattr(back, part)
        for name in ("keys", "labels", "inputs"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
            assert np.asarray(getattr(one, name)).dtype == np.asarray(getattr(two, name)).dtype
    file = next(iter(sorted((base / "saved").glob("train.*"))))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(AttarError, match="cannot be read"):
        data.load(base / "saved")
    (base / "saved" / "data.json").write_text('{"schema": 9}')
    with pytest.raises(AttarError, match="is not of schema 1"):
        data.load(base / "saved")
