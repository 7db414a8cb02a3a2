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
