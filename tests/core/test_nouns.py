from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Batch, Measurement

FAST = Measurement(2.0, "ms", 10, 0.1, {"threads": 1, "batch": 1})


def test_ratio_of_like_measurements() -> None:
    assert replace(FAST, value=6.0).ratio_to(FAST) == 3.0


@pytest.mark.parametrize("change", [{"unit": "s"}, {"conditions": {"threads": 2, "batch": 1}}, {"conditions": {}}])
def test_ratio_of_unlike_measurements_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        FAST.ratio_to(replace(FAST, **change))  # type: ignore[arg-type]


def test_batch_keys_follow_the_examples() -> None:
    examples = Examples(np.array([3, 1, 2])[::-1], ["a", "b", "c"], np.zeros(3, int))
    assert Batch(examples, {}, torch.zeros(3)).keys.tolist() == [2, 1, 3]
