"""Say how sure a number is: bootstrap intervals, calibration error, agreement, verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 500  # resamples drawn at once: bounds memory at 500 x examples

Verdict = Literal["BEATS", "NO BEATS", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Interval:
    """Hold an estimate with its 95 % interval.

    Args:
        value: the estimate.
        low: lower end.
        high: upper end.
        n: examples it stands on.
    """

    value: float
    low: float
    high: float
    n: int

    def exponent(self) -> Interval:
        """Return the interval of e to the estimate: of a mean log-loss, the perplexity."""
        return Interval(math.exp(self.value), math.exp(self.low), math.exp(self.high), self.n)

    def to_json(self) -> dict[str, float | int]:
        """Return the figures by name, rounded to 6 digits."""
        return {"value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6), "n": self.n}


def bootstrap_mean(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of per-example values with its percentile-bootstrap interval.

    For a difference of two models on the same examples, give the differences: the bootstrap is then paired.

    Args:
        values: ``(examples,)``.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: there are no values.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
        >>> interval = bootstrap_mean(np.array([0.0, 1.0] * 50), seed=0)
        >>> interval.value, round(interval.low, 1), round(interval.high, 1)
        (0.5, 0.4, 0.6)
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        raise ValueError("a bootstrap needs at least one value")
    random = np.random.Generator(np.random.PCG64(seed))
    means = np.concatenate(
        [
            values[random.integers(0, len(values), (min(CHUNK, resamples - first), len(values)))].mean(axis=1)
            for first in range(0, resamples, CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def bootstrap_ratio(above: np.ndarray, below: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return ``Σ above / Σ below`` over examples with its percentile-bootstrap interval.

    Examples are drawn, not their parts: the tokens of one text belong together.

    Args:
        above: ``(examples,)``, for example each text's summed loss.
        below: ``(examples,)``, for example each text's tokens.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: there are no examples.

    Example:
        >>> bootstrap_ratio(np.array([2.0, 4.0]), np.array([1.0, 2.0]), seed=0).value
        2.0
    """
    if len(above) == 0:
        raise ValueError("a bootstrap needs at least one value")
    random = np.random.Generator(np.random.PCG64(seed))
    ratios = []
    for first in range(0, resamples, CHUNK):
        drawn = random.integers(0, len(above), (min(CHUNK, resamples - first), len(above)))
        ratios.append(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(above.sum() / below.sum()), float(low), float(high), len(above))


def verdict(difference: Interval) -> Verdict:
    """Judge a paired difference: above 0 for sure, not above 0 for sure, or neither.

    Example:
        >>> verdict(Interval(0.02, 0.004, 0.036, 1000)), verdict(Interval(0.0, -0.01, 0.01, 1000))
        ('BEATS', 'INCONCLUSIVE')
    """
    if difference.low > 0:
        return "BEATS"
    return "NO BEATS" if difference.high <= 0 else "INCONCLUSIVE"


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, over bins of confidence.

    Args:
        probabilities: ``(examples, classes)``.
        labels: ``(examples,)`` gold.
        bins: equally wide.

    Returns:
        In [0, 1]; 0 is perfectly calibrated.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Example:
        >>> expected_calibration_error(np.array([[0.8, 0.2]] * 10), np.array([0] * 8 + [1] * 2))
        0.0
    """
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = sum(abs(float(right[place == b].sum()) - float(confidence[place == b].sum())) for b in range(bins))
    return round(gap / len(labels), 6)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of examples on which two models choose the same class.

    Example:
        >>> agreement(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [3.0, 1.0]]))
        0.5
    """
    return float((first.argmax(axis=-1) == second.argmax(axis=-1)).mean())


def confusion(scores: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Return counts ``[gold][answered]``."""
    classes = scores.shape[-1]
    flat = np.bincount(labels * classes + scores.argmax(axis=-1), minlength=classes * classes)
    return [[int(count) for count in row] for row in flat.reshape(classes, classes)]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, in float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    exponent = np.exp(shifted)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))
