"""The prior correction: exact masses, one gauge, and a plain answer to a prior that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from attar.errors import AttarError
from attar.students.prior import TOLERANCE, checked, class_bias, mean_mass, target_prior


def _scores(examples: int, labels: int, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(examples, labels)) * scale


def _plain_mass(scores: np.ndarray) -> np.ndarray:
    """Return the mean softmax, one example at a time."""
    total = np.zeros(scores.shape[1])
    for row in scores.tolist():
        exponents = [np.exp(score - max(row)) for score in row]
        total += np.array(exponents) / sum(exponents)
    return total / len(scores)


@pytest.mark.parametrize(
    ("examples", "labels", "scale", "lowered"),
    [(200, 2, 1, 0), (300, 10, 3, 0), (300, 10, 3, 40), (300, 10, 3, 900), (500, 10, 200, 0), (50, 3, 1e4, 0)],
)
def test_mean_masses_are_the_prior(examples: int, labels: int, scale: float, lowered: float) -> None:
    scores = _scores(examples, labels, scale)
    scores[:, labels - 1] -= lowered  # a class that the student has never met
    prior = np.arange(1, labels + 1) / np.arange(1, labels + 1).sum()
    bias = class_bias(scores, prior)
    assert np.abs(_plain_mass(scores + bias) - prior).max() <= 2 * TOLERANCE
    assert bias.mean() == pytest.approx(0, abs=1e-9 * max(1.0, float(np.abs(bias).max())))


def test_one_example_is_solved_by_hand() -> None:
    # softmax(s + b) = prior, so b = log prior - s, less its mean
    scores, prior = np.array([[1.0, -2.0, 0.5]]), np.array([0.2, 0.3, 0.5])
    expected = np.log(prior) - scores[0]
    assert class_bias(scores, prior) == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_a_prior_that_is_right_already_gives_no_bias() -> None:
    scores = _scores(100, 5)
    assert class_bias(scores, mean_mass(scores)) == pytest.approx(np.zeros(5), abs=1e-12)


def test_the_bias_undoes_a_bias() -> None:
    scores, shift = _scores(400, 4), np.array([5.0, -3.0, 0.0, -2.0])
    assert class_bias(scores + shift, mean_mass(scores)) == pytest.approx(-shift, abs=1e-6)


def test_what_does_not_change_a_probability_does_not_change_the_bias() -> None:
    scores, prior = _scores(60, 4), np.array([0.1, 0.2, 0.3, 0.4])
    expected = class_bias(scores, prior)
    moved = scores + np.random.default_rng(1).normal(size=(60, 1)) * 50
    assert class_bias(moved, prior) == pytest.approx(expected, abs=1e-6)
    assert class_bias(scores[::-1], prior) == pytest.approx(expected, abs=1e-6)
    assert class_bias(np.concatenate([scores, scores]), prior) == pytest.approx(expected, abs=1e-6)
    order = [2, 0, 3, 1]
    assert class_bias(scores[:, order], prior[order]) == pytest.approx(expected[order], abs=1e-6)


def test_it_minimizes_the_convex_dual() -> None:
    scores, prior = _scores(80, 3), np.array([0.5, 0.1, 0.4])
    bias = class_bias(scores, prior)

    def dual(candidate: np.ndarray) -> float:
        return float(np.log(np.exp(scores + candidate).sum(axis=1)).mean() - prior @ candidate)

    least = dual(bias)
    steps = np.random.default_rng(2).normal(size=(50, 3)) * 0.1
    assert all(dual(bias + step) > least for step in steps)


def test_equal_scores_give_equal_bits() -> None:
    scores, prior = _scores(300, 10, 30), np.full(10, 0.1)
    assert np.array_equal(class_bias(scores, prior), class_bias(scores.copy(), prior.copy()))


def test_only_some_classes_are_brought_to_their_prior() -> None:
    scores, prior = _scores(300, 5), np.array([0.3, 0.1, 0.1, 0.2, 0.3])
    scores[:, 3] -= 30
    bias = class_bias(scores, prior, only=[3])
    assert _plain_mass(scores + bias)[3] == pytest.approx(0.2, abs=1e-7)
    assert np.ptp(np.delete(bias, 3)) == 0
    assert bias.mean() == pytest.approx(0, abs=1e-12)
    assert class_bias(scores, prior, only=[4, 2, 0, 1, 3]) == pytest.approx(class_bias(scores, prior))


@pytest.mark.parametrize("only", [[1, 1], [3], [-1]])
def test_classes_that_do_not_exist_are_a_programmers_mistake(only: list[int]) -> None:
    with pytest.raises(ValueError, match="only must name different classes from 0 to 2"):
        class_bias(_scores(5, 3), np.full(3, 1 / 3), only)


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ([0.5, 0.5], "one number for each of the 3 classes, got 2"),
        ([0.5, 0.5, 0.0], "above 0 for every class, got 0 at place 2"),
        ([0.7, 0.5, -0.2], "above 0 for every class, got -0.2 at place 2"),
        ([float("nan"), 0.5, 0.5], "above 0 for every class, got nan at place 0"),
        ([0.5, 0.5, 0.5], "must sum to 1, got 1.5"),
    ],
)
def test_an_impossible_prior_is_a_users_mistake(prior: list[float], words: str) -> None:
    for ask in (lambda: class_bias(_scores(5, 3), np.array(prior)), lambda: target_prior(prior, 3)):
        with pytest.raises(AttarError, match=words):
            ask()


def test_a_prior_rounded_by_hand_is_taken() -> None:
    third = checked(np.array([0.3333333, 0.3333333, 0.3333333]), 3)
    assert third.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.zeros((0, 2)), "at least one unlabelled example"),
        (np.array([[0.0, np.nan]]), "NaN or infinity"),
        (np.array([[0.0, np.inf]]), "NaN or infinity"),
        (np.array([[0.0, -np.inf], [1.0, -np.inf]]), "Class 1 has the score -inf on every example"),
        (np.array([[-np.inf, -np.inf], [1.0, 0.0]]), "-inf for every class"),
        (np.array([[0.0, -np.inf], [0.0, -np.inf], [0.0, 0.0]]), "No bias gives the prior"),  # 1 of 3 cannot hold 1/2
    ],
)
def test_scores_that_cannot_give_the_prior(scores: np.ndarray, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.students.prior.MOST_STEPS", 200)
    with pytest.raises(AttarError, match=words):
        class_bias(scores, np.array([0.5, 0.5]))


def test_a_class_ruled_out_on_some_examples_takes_its_mass_from_others() -> None:
    scores = np.array([[0.0, -np.inf], [0.0, 1.0], [0.0, -2.0]])
    bias = class_bias(scores, np.array([0.5, 0.5]))
    assert mean_mass(scores + bias) == pytest.approx([0.5, 0.5], abs=1e-7)


def test_priors_by_name() -> None:
    assert target_prior("uniform", 4).tolist() == [0.25] * 4
    said = np.log(np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert target_prior("teacher", 2, said) == pytest.approx([0.7, 0.3])
    softened = np.sqrt([[0.9, 0.1], [0.5, 0.5]])
    expected = (softened / softened.sum(axis=1, keepdims=True)).mean(axis=0)
    assert target_prior("teacher", 2, said, temperature=2) == pytest.approx(expected)
    with pytest.raises(ValueError, match="needs the teacher's scores"):
        target_prior("teacher", 2)
    with pytest.raises(AttarError, match="prior must be none, uniform, teacher or one number a class, got 'flat'"):
        target_prior("flat", 2)  # type: ignore[arg-type]
