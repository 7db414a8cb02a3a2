from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from attar.prompts.scoring.batches import common_prefix, equal_lengths, length_buckets


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [([[1, 2, 3], [1, 2, 4], [1, 2]], 1), ([[1], [1]], 0), ([[5, 1], [6, 1]], 0), ([(1, 2, 3), [1, 2, 9, 9]], 2)],
)
def test_common_prefix_leaves_each_a_token(sequences: Sequence[Sequence[int]], shared: int) -> None:
    assert common_prefix(sequences) == shared


def test_buckets_hold_every_place_once_longest_first() -> None:
    lengths = np.array([3, 50, 7, 7, 120, 1, 30])
    buckets = list(length_buckets(lengths, 60))
    assert sorted(int(i) for bucket in buckets for i in bucket) == list(range(7))
    assert all(len(bucket) == 1 or lengths[bucket].max() * len(bucket) <= 60 for bucket in buckets)
    assert buckets[0].tolist() == [4]
    assert list(length_buckets(np.array([], int), 60)) == []


def test_buckets_are_the_cheapest_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(1, 40, size=7)
        sizes = sorted(lengths.tolist(), reverse=True)
        costs = []
        for count in range(7):
            for cuts in combinations(range(1, 7), count):
                parts = [sizes[a:b] for a, b in zip((0, *cuts), (*cuts, 7), strict=True)]
                if all(len(part) == 1 or part[0] * len(part) <= 90 for part in parts):
                    costs.append(sum(part[0] * len(part) + 10 for part in parts))
        buckets = list(length_buckets(lengths, 90, start=10))
        assert sum(int(lengths[bucket].max()) * len(bucket) + 10 for bucket in buckets) == min(costs)


def test_equal_lengths_need_no_padding() -> None:
    lengths = np.array([3, 5, 3, 3, 5, 9])
    buckets = [bucket.tolist() for bucket in equal_lengths(lengths, 7)]
    assert buckets == [[5], [1], [4], [0, 2], [3]]
