"""Splits: disjoint, stratified, balanced on request, and the same for any order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.core.examples import UNKNOWN, Examples
from attar.errors import AttarError
from attar.seeds import content_key
from attar.sources.splits import Sizes, split

NAMES = ("a", "b", "c")
PARTS = ("train", "validation", "test")


def pool(*counts: int, unlabeled: int = 0) -> Examples:
    labels = [place for place, count in enumerate(counts) for _ in range(count)] + [UNKNOWN] * unlabeled
    texts = [f"text {i}" for i in range(len(labels))]
    return Examples(np.array([content_key(t.encode()) for t in texts]), texts, np.array(labels))


def counts_of(examples: Examples, names: tuple[str, ...] = NAMES) -> list[int]:
    return [int((examples.labels == place).sum()) for place in range(len(names))]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=3, max_size=3),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_splits_are_disjoint_and_do_not_depend_on_the_order(
    counts: list[int], seed: int, random: object, balance: bool
):
    sizes = Sizes(None, 3, 3, balance)
    whole = pool(*counts, unlabeled=4)
    if balance and min(counts) < 3:
        return
    first = split(whole, None, NAMES, sizes, seed)
    order = list(range(len(whole)))
    random.shuffle(order)  # type: ignore[attr-defined]
    second = split(whole.take(np.array(order)), None, NAMES, sizes, seed)
    keys: list[int] = []
    for name in PARTS:
        one, two = getattr(first, name), getattr(second, name)
        assert one.keys.tolist() == two.keys.tolist()
        assert one.inputs == two.inputs
        assert (one.labels == two.labels).all()
        keys += one.keys.tolist()
        if balance:
            assert len(set(counts_of(one))) == 1 or name == "train"
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(whole.keys.tolist())
    assert balance or len(keys) == len(whole)


def test_classes_keep_their_proportions() -> None:
    found = split(pool(600, 300, 100), None, NAMES, Sizes(None, 0.15, 0.2, False), 0)
    assert counts_of(found.test) == pytest.approx([120, 60, 20], abs=1)
    assert counts_of(found.validation) == pytest.approx([90, 45, 15], abs=1)
    assert counts_of(found.train) == pytest.approx([390, 195, 65], abs=2)
    assert len(found.test) == 200


def test_balance_takes_every_class_equally_often() -> None:
    found = split(pool(600, 300, 100), None, NAMES, Sizes(100, 30, 60, True), 0)
    assert [counts_of(getattr(found, name)) for name in PARTS] == [[33] * 3, [10] * 3, [20] * 3]
    assert counts_of(split(pool(9, 20, 30), None, NAMES, Sizes(None, 0.15, 0.2, True), 0).train) == [7] * 3


def test_seeds_differ_and_the_test_set_heeds_no_training_size() -> None:
    whole = pool(50, 50, 50)
    one, other = (split(whole, None, NAMES, Sizes(None, 20, 30, False), seed) for seed in (0, 1))
    assert set(one.test.keys.tolist()) != set(other.test.keys.tolist())
    smaller = split(whole, None, NAMES, Sizes(10, 20, 30, False), 0)
    assert smaller.test.keys.tolist() == one.test.keys.tolist()
    assert smaller.validation.keys.tolist() == one.validation.keys.tolist()
    assert set(smaller.train.keys.tolist()) < set(one.train.keys.tolist())


def test_examples_without_a_label_go_to_train_alone() -> None:
    found = split(pool(10, 10, 10, unlabeled=50), None, NAMES, Sizes(None, 6, 6, False), 0)
    assert (found.train.labels == UNKNOWN).sum() == 50
    assert len(found.train) == 68
    assert UNKNOWN not in found.validation.labels
    assert UNKNOWN not in found.test.labels
    bare = split(pool(unlabeled=40), None, NAMES, Sizes(None, 0.25, 0.25, False), 0)
    assert [len(getattr(bare, name)) for name in PARTS] == [20, 10, 10]


def test_an_official_test_set_is_taken_whole_or_in_number() -> None:
    train, official = pool(30, 30, 30), pool(9, 12, 15)
    assert len(split(train, official, NAMES, Sizes(None, 0.1, 0.2, False), 0).test) == 36
    found = split(train, official, NAMES, Sizes(None, 0.1, 12, False), 0)
    assert counts_of(found.test) == pytest.approx([3, 4, 5], abs=1)
    assert len(found.train) == 81
    assert counts_of(split(train, official, NAMES, Sizes(None, 9, 0.2, True), 0).test) == [9, 9, 9]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (Sizes(100, 10, 10, False), r"train 100 \+ validation 10 \+ test 10 = 120 examples .* 45 .*a 10, b 15, c 20"),
        (Sizes(None, 10, 40, False), "are asked for, and 45 are there"),
        (Sizes(None, 30, 15, False), r"^validation 30 \+ test 15 = 45 .* train would be empty"),
        (Sizes(30, 3, 3, True), "30 when every class is taken equally often"),
        (Sizes(None, 2, 10, True), "validation: 2 of 30 .* leaves it empty when each of 3 classes"),
        (Sizes(None, 10, 0.001, False), "test: 0.001 of 45 .* leaves it empty"),
    ],
)
def test_what_cannot_be_had_is_said_with_counts(sizes: Sizes, said: str) -> None:
    with pytest.raises(AttarError, match=said):
        split(pool(10, 15, 20), None, NAMES, sizes, 0)


def test_an_official_test_set_that_is_too_small_is_said() -> None:
    with pytest.raises(AttarError, match=r"test 50 = 50 examples are asked for, and 9 are there .*a 9, b 0"):
        split(pool(9, 9, 9), pool(9), NAMES, Sizes(None, 3, 50, False), 0)
    with pytest.raises(AttarError, match="a 9, b 0, c 0"):
        split(pool(9, 9, 9), pool(9), NAMES, Sizes(None, 3, 0.5, True), 0)


def pairs(count: int, without_target: int = 0) -> Examples:
    whole = pool(unlabeled=count + without_target)
    return whole.with_targets([f"of {text}" for text in whole.inputs[:count]] + [""] * without_target)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 60), st.integers(0, 9), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_targets_follow_their_texts_and_the_order_of_rows_does_not_matter(
    count: int, without_target: int, seed: int, random: object
) -> None:
    whole, sizes = pairs(count, without_target), Sizes(None, 4, 0.25, False)
    order = list(range(len(whole)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first, second = (split(some, None, (), sizes, seed) for some in (whole, whole.take(np.array(order))))
    for name in PARTS:
        one, two = getattr(first, name), getattr(second, name)
        assert (one.keys.tolist(), one.inputs, one.targets) == (two.keys.tolist(), two.inputs, two.targets)
        assert all(target in ("", f"of {text}") for text, target in zip(one.inputs, one.targets, strict=True))
    assert "" not in [*first.validation.targets, *first.test.targets]
    assert first.train.targets.count("") == without_target
    keys = np.concatenate([getattr(first, name).keys for name in PARTS]).tolist()
    assert sorted(keys) == sorted(whole.keys.tolist())


def test_pairs_in_no_split_are_spare_and_show_no_target() -> None:
    found = split(pairs(30), None, (), Sizes(10, 4, 6, False), 0)
    assert len(found.spare) == 10
    assert found.spare.targets is None


def test_pairs_that_cannot_be_had_are_said_without_classes() -> None:
    with pytest.raises(AttarError, match=r"10 are there after cleaning \(no classes; 3 without a target, for train"):
        split(pairs(10, 3), None, (), Sizes(None, 6, 6, False), 0)
    with pytest.raises(AttarError, match=r"test: 0.01 of 10 examples \(no classes\) leaves it empty\. Set a larger"):
        split(pairs(10), None, (), Sizes(None, 2, 0.01, False), 0)
