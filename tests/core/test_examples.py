from __future__ import annotations

import numpy as np
import pytest

from attar.core.examples import UNKNOWN, DataSet, Examples


def _some(count: int, images: bool = False) -> Examples:
    inputs = (
        np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2) if images else [f"text {i}" for i in range(count)]
    )
    return Examples(np.arange(count) + 10, inputs, np.arange(count) % 2)


@pytest.mark.parametrize("images", [False, True])
def test_take_keeps_keys_inputs_and_labels_together(images: bool) -> None:
    taken = _some(4, images).take(np.array([2, 0]))
    assert taken.keys.tolist() == [12, 10]
    assert taken.labels.tolist() == [0, 0]
    assert np.array_equal(np.asarray(taken.inputs[0]), np.asarray(_some(4, images).inputs[2]))


def test_take_of_nothing_is_empty() -> None:
    assert len(_some(4).take(np.array([], int))) == 0


def test_split_hides_labels_that_may_not_be_used() -> None:
    data = DataSet(("a", "b"), _some(4), _some(2), _some(2), frozenset({"test"}))
    assert (data.split("train").labels == UNKNOWN).all()
    assert data.split("test").labels.tolist() == [0, 1]
    assert data.train.labels.tolist() == [0, 1, 0, 1]


def _pairs(count: int) -> Examples:
    return Examples(
        np.arange(count) + 10,
        [f"text {i}" for i in range(count)],
        np.full(count, UNKNOWN),
        [f"target {i}" for i in range(count)],
    )


def test_take_keeps_texts_and_targets_together() -> None:
    taken = _pairs(4).take(np.array([2, 0, 2]))
    assert taken.inputs == ["text 2", "text 0", "text 2"]
    assert taken.targets == ["target 2", "target 0", "target 2"]
    assert _pairs(4).take(np.array([], int)).targets == []
    assert _some(4).take(np.array([1])).targets is None


def test_split_hides_targets_that_may_not_be_used() -> None:
    data = DataSet((), _pairs(4), _pairs(2), _pairs(2), frozenset({"test"}))
    assert data.split("train").targets is None
    assert data.split("train").inputs == data.train.inputs
    assert data.split("test").targets == ["target 0", "target 1"]
    assert data.train.targets == [f"target {i}" for i in range(4)]


def test_other_targets_stand_beside_the_same_inputs() -> None:
    first = _pairs(2)
    other = first.with_targets(("a", "b"))
    assert (other.inputs, other.targets) == (first.inputs, ["a", "b"])
    assert other.keys.tolist() == first.keys.tolist()
    assert first.targets == ["target 0", "target 1"]
    assert first.without_labels().with_targets(["a", "b"]).targets == ["a", "b"]


def test_a_text_with_several_targets_gets_a_key_for_each() -> None:
    twice = _pairs(1).take(np.array([0, 0])).with_targets(["a", "b"], np.array([5, 6]))
    assert twice.keys.tolist() == [5, 6]
    assert twice.inputs == ["text 0", "text 0"]


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 examples, 1 targets"):
        _pairs(2).with_targets(["a"])
    with pytest.raises(ValueError, match="2 examples, 3 keys"):
        _pairs(2).with_targets(["a", "b"], np.arange(3))
    with pytest.raises(ValueError, match="2 examples, 3 keys"):
        _pairs(2).with_targets(["a", "b", "c"], np.arange(3))
    with pytest.raises(ValueError, match="1 examples, 2 targets"):
        Examples(np.array([1]), ["a"], np.array([UNKNOWN]), ["a", "b"])


def test_marks_of_own_texts_go_with_their_examples() -> None:
    some = _pairs(3)
    marked = Examples(some.keys, some.inputs, some.labels, some.targets, np.array([True, False, True]))
    taken = marked.take(np.array([2, 1]))
    assert taken.own is not None
    assert taken.own.tolist() == [True, False]
    assert some.take(np.array([0])).own is None
    assert marked.without_labels().own is None
    assert marked.with_targets(["a", "b", "c"]).own is None


def test_marks_are_one_an_example() -> None:
    some = _pairs(3)
    with pytest.raises(ValueError, match="one mark each: 3 examples, 2 marks"):
        Examples(some.keys, some.inputs, some.labels, some.targets, np.array([True, False]))
