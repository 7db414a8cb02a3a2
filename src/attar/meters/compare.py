"""Compare the times of two models that took turns, and refuse what lies under the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

LEVEL = 0.99
"""Of the interval: a report makes dozens of claims, and at 95 % one in twenty of equals would be a false one."""
RESAMPLES = 2000
LEAST = 0.05
"""A difference smaller than this is no claim, however narrow its interval: clocks and neighbors move that much."""
ROUNDS = 8
"""Fewer rounds bear no claim: a bootstrap of so few knows nothing of their spread."""


@dataclass(frozen=True)
class Claim:
    """Hold how long one model takes, in times of another.

    Args:
        ratio: of the medians, first by second: 0.5 is twice as fast.
        low: lower end of its 99 % interval.
        high: upper end.
        claim: what may be said of the first.
    """

    ratio: float
    low: float
    high: float
    claim: Literal["faster", "slower", "no difference"]

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name, rounded to 4 digits."""
        return {name: round(one, 4) if isinstance(one, float) else one for name, one in asdict(self).items()}


def claim(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, seed: int = 0) -> Claim:
    """Judge two models by the times of rounds in which both ran, one after the other, on the same example.

    Rounds are drawn with both their times, so what slows a whole round slows both. ``no difference`` is said where
    the interval holds 1, where the ratio is within 5 % of 1, and where there are fewer than 8 rounds.

    Args:
        first: ``(rounds,)`` times of the model that is judged, in any unit.
        second: ``(rounds,)`` times of the other, in the same unit.
        seed: of the resampling.

    Raises:
        ValueError: the two have not the same number of rounds, there is none, or a time is not positive.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
        >>> claim([1.0, 1.1, 0.9] * 5, [2.0, 2.2, 1.8] * 5).claim
        'faster'
    """
    times = np.array([first, second], np.float64)
    if times.ndim != 2 or times.shape[1] == 0 or not (times > 0).all():
        raise ValueError(f"claims need positive times of the same rounds, got {len(first)} and {len(second)}")
    random = np.random.Generator(np.random.PCG64(seed))
    rounds = times.shape[1]
    drawn = np.median(times[:, random.integers(0, rounds, (RESAMPLES, rounds))], axis=2)
    low, high = (float(one) for one in np.quantile(drawn[0] / drawn[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    one, other = np.median(times, axis=1)
    ratio = float(one / other)
    if rounds < ROUNDS or low <= 1 <= high or abs(ratio - 1) < LEAST:
        return Claim(ratio, low, high, "no difference")
    return Claim(ratio, low, high, "faster" if ratio < 1 else "slower")
