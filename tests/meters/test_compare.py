from __future__ import annotations

import numpy as np
import pytest

from attar.meters.compare import claim


def _times(random: np.random.Generator, rounds: int, median: float = 1.0) -> np.ndarray:
    """Return times with the long tail that a shared machine has."""
    return median * np.exp(random.normal(0, 0.15, rounds)) * np.where(random.random(rounds) < 0.1, 1.8, 1.0)


@pytest.mark.parametrize("rounds", [10, 60])
def test_a_model_against_itself_gives_no_claim(rounds: int) -> None:
    random = np.random.Generator(np.random.PCG64(1))
    said = [claim(_times(random, rounds), _times(random, rounds), seed).claim for seed in range(200)]
    assert said.count("no difference") >= 190


def test_twice_as_fast_is_a_claim() -> None:
    random = np.random.Generator(np.random.PCG64(2))
    slow, fast = _times(random, 30, 2.0), _times(random, 30, 1.0)
    found = claim(fast, slow)
    assert (found.claim, claim(slow, fast).claim) == ("faster", "slower")
    assert found.low < 0.5 < found.high
    assert found.ratio == pytest.approx(float(np.median(fast) / np.median(slow)))


def test_the_ratio_and_interval_by_hand() -> None:
    found = claim([2.0, 4.0, 6.0] * 4, [1.0, 2.0, 3.0] * 4)
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)  # rounds are drawn in pairs
    assert found.to_json() == {"ratio": 2.0, "low": 2.0, "high": 2.0, "claim": "slower"}


def test_a_sure_but_small_difference_is_no_claim() -> None:
    found = claim([0.96] * 20, [1.0] * 20)
    assert found.high < 1
    assert found.claim == "no difference"


def test_few_rounds_bear_no_claim() -> None:
    assert claim([1.0] * 7, [9.0] * 7).claim == "no difference"
    assert claim([1.0] * 8, [9.0] * 8).claim == "faster"


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [0.0]), ([1.0], [float("nan")]), ([1.0], [1.0, 2.0])])
def test_times_that_are_none_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match=r"same rounds|inhomogeneous"):
        claim(first, second)
