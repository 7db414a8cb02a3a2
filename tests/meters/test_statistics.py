from __future__ import annotations

import math

import numpy as np
import pytest

from attar.meters import statistics
from attar.meters.statistics import Interval, bootstrap_mean, expected_calibration_error, verdict


def test_bootstrap_agrees_with_normal_theory() -> None:
    values = np.random.Generator(np.random.PCG64(0)).normal(2.0, 3.0, 800)
    found = bootstrap_mean(values, seed=1)
    half = 1.959964 * values.std() / math.sqrt(800)  # the normal's 97.5 % point
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert found.n == 800


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    hits = 0
    for trial in range(100):
        found = bootstrap_mean((random.random(60) < 0.7).astype(float), seed=trial, resamples=500)
        hits += found.low <= 0.7 <= found.high
    assert 88 <= hits <= 99


def test_bootstrap_is_a_function_of_the_seed() -> None:
    values = np.arange(30.0)
    assert bootstrap_mean(values, 1) == bootstrap_mean(values, 1)
    assert bootstrap_mean(values, 1) != bootstrap_mean(values, 2)


@pytest.mark.parametrize("resamples", [1, 499, 500, 501, 1200])
def test_bootstrap_draws_as_many_as_asked(resamples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda means, q: seen.append(len(means)) or quantile(means, q))
    bootstrap_mean(np.arange(5.0), 0, resamples)
    assert seen == [resamples]


def test_bootstrap_of_equal_values_is_a_point_and_of_none_a_fault() -> None:
    assert bootstrap_mean(np.ones(7), 0) == Interval(1.0, 1.0, 1.0, 7)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean(np.array([]), 0)


def test_paired_differences_are_tighter_than_two_intervals() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    hard = random.random(400)
    first, second = (hard < 0.70).astype(float), (hard < 0.73).astype(float)
    paired = bootstrap_mean(second - first, 0)
    apart = bootstrap_mean(first, 0)
    assert verdict(paired) == "BEATS"
    assert apart.high - apart.low > 2 * (paired.high - paired.low)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.1, "BEATS"),
        (0.0, 0.1, "INCONCLUSIVE"),
        (-0.1, 0.0, "NO BEATS"),
        (-0.2, -0.1, "NO BEATS"),
        (0.0, 0.0, "NO BEATS"),
    ],
)
def test_verdict_at_its_edges(low: float, high: float, said: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 10)) == said


def test_calibration_error_by_hand() -> None:
    # two bins: (0.55, 0.45: one of two right) and (0.9, 0.9: both right):
    # |1 - 1.10| / 4 + |2 - 1.8| / 4 = 0.025 + 0.05
    probabilities = np.array([[0.55, 0.45], [0.45, 0.55], [0.9, 0.1], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(0.075)


def test_calibration_error_at_full_confidence() -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1])) == pytest.approx(0.25)


def test_agreement_and_confusion() -> None:
    scores = np.array([[2.0, 1, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1]])
    assert statistics.confusion(scores, np.array([0, 0, 1, 2])) == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert statistics.agreement(scores, scores * 5) == 1.0
    assert statistics.agreement(scores, -scores) == 0.0


def test_softmax_of_large_scores() -> None:
    said = statistics.softmax(np.array([[1e4, 1e4 - math.log(3)], [-1e4, -1e4]], np.float64))
    assert said.ravel().tolist() == pytest.approx([0.75, 0.25, 0.5, 0.5])
