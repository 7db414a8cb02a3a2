"""Tell a gain from luck: paired tests, control of multiplicity, and the shortest prompt that is not worse."""

from __future__ import annotations

import numpy as np
from scipy import stats

FLIPS = 10_000
"""Random sign flips of the permutation test: the smallest p-value it can give is 1 / 10,001."""
EXACT = 1000
"""From this many examples on, the mean of differences is as good as normal, and the t-test takes over."""


def paired_p(differences: np.ndarray) -> float:
    """Return how likely a mean this far above 0 is if both prompts are equally good.

    Wins and losses of right answers are counted exactly (McNemar's test as a binomial); other differences have
    their signs flipped at random, which is exact if equally good prompts win as often by any amount as they lose by
    it; many of those are tested by Student's t.

    Args:
        differences: ``(examples,)``, the one prompt's value less the other's on the same example.

    Returns:
        One-sided p-value in (0, 1]; 1 where there is nothing to tell.

    Raises:
        ValueError: a difference is not a number.

    Reference:
        McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; Fisher, "The
        Design of Experiments", 1935, section 21 (sign flips).

    Example:
        >>> round(paired_p(np.array([1.0] * 5 + [0.0] * 20)), 4)  # five wins, no loss: 1 in 2^5
        0.0312
    """
    differences = np.asarray(differences, np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("differences must be finite")
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0
    if np.isin(moved, (-1.0, 1.0)).all():
        return float(stats.binomtest(int((moved > 0).sum()), len(moved), 0.5, alternative="greater").pvalue)
    if len(differences) >= EXACT:
        return float(stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue)
    return _flipped(moved)


def _flipped(moved: np.ndarray) -> float:
    random = np.random.Generator(np.random.PCG64(len(moved)))  # the same differences have the same p-value
    signs = random.integers(0, 2, (FLIPS, len(moved)), dtype=np.int8) * 2.0 - 1.0
    reached = int((signs @ moved >= moved.sum() - 1e-12 * np.abs(moved).sum()).sum())
    return (reached + 1) / (FLIPS + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for how many there are: the chance of even one false rejection is what they bound.

    Args:
        p: ``(tests,)``.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(6).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps) if len(p) else steps
    return adjusted


def shortest_not_worse(values: np.ndarray, costs: np.ndarray) -> int:
    """Return the place of the cheapest prompt within one standard error of the best (the one-standard-error rule).

    The standard error is that of the paired difference to the best, so prompts that err on the same examples must be
    closer to it.

    Args:
        values: ``(prompts, examples)`` of the criterion; higher is better.
        costs: ``(prompts,)``, for example tokens.

    Reference:
        Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3.

    Example:
        >>> shortest_not_worse(np.array([[1.0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]), np.array([90, 20, 1]))
        1
    """
    best = int(values.mean(axis=1).argmax())
    gaps = values[best] - values
    count = values.shape[1]
    errors = gaps.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(values))
    fits = np.flatnonzero(gaps.mean(axis=1) <= errors)
    return int(min(fits, key=lambda place: (costs[place], -values[place].mean())))
