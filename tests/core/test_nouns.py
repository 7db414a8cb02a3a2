from __future__ import annotations

import numpy as np
import torch

from attar.core.examples import Examples
from attar.core.nouns import Batch


def test_batch_keys_follow_the_examples() -> None:
    examples = Examples(np.array([3, 1, 2])[::-1], ["a", "b", "c"], np.zeros(3, int))
    assert Batch(examples, {}, torch.zeros(3)).keys.tolist() == [2, 1, 3]
