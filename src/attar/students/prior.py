"""Correct a student's bias for classes that its transfer data lacked or had too few of; needs no labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from attar.errors import AttarError

TOLERANCE = 1e-8
"""Largest difference from the prior that is accepted in the mean mass of a class."""

MOST_STEPS = 5000
DAMPING = (0.0, 1e-6)
PARTS = (1.0, 0.5, 0.2, 0.05)  # of a step
FARTHEST = 100.0  # a step of Newton, in logits after softening
NAMES = ("uniform", "teacher")


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis, in float64; a score of -inf stays -inf."""
    top = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(axis=-1, keepdims=True)))


def mean_mass(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the mean probability of each class.

    Args:
        scores: ``(examples, labels)`` logits.
        temperature: above 0; divides the logits first.

    Returns:
        ``(labels,)``, summing to 1.

    Example:
        >>> mean_mass(np.array([[0.0, 0.0], [0.0, -np.inf]]))
        array([0.75, 0.25])
    """
    return np.asarray(np.exp(log_softmax(np.asarray(scores) / temperature)).mean(axis=0))


def target_prior(
    wanted: Literal["uniform", "teacher"] | Sequence[float],
    labels: int,
    teacher: np.ndarray | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return the class masses that a student should give in the mean.

    Args:
        wanted: ``uniform``; ``teacher``, the mean of its probabilities; or one number a class.
        labels: how many classes there are.
        teacher: ``(examples, labels)`` logits of the teacher on unlabelled examples; for ``teacher`` alone.
        temperature: above 0; softens the teacher's probabilities. At 1 their mean estimates how frequent each class
            is; a higher one draws it towards uniform.

    Returns:
        ``(labels,)``.

    Raises:
        AttarError: the masses are no prior of these classes.
        ValueError: ``teacher`` is asked for without its scores.

    Example:
        >>> target_prior("uniform", 4)
        array([0.25, 0.25, 0.25, 0.25])
    """
    if isinstance(wanted, str):
        if wanted not in NAMES:
            raise AttarError(f"prior must be none, {', '.join(NAMES)} or one number a class, got '{wanted}'.")
        if wanted == "uniform":
            return np.full(labels, 1.0 / labels)
        if teacher is None:
            raise ValueError("the prior 'teacher' needs the teacher's scores")
        return checked(mean_mass(teacher, temperature), labels)
    return checked(np.asarray(wanted, np.float64), labels)


def checked(prior: np.ndarray, labels: int) -> np.ndarray:
    """Return a prior as float64 that sums to 1 exactly, if it is one.

    Raises:
        AttarError: it has another number of classes, a class without mass, or does not sum to 1 (to 1e-6).
    """
    prior = np.asarray(prior, np.float64)
    if prior.shape != (labels,):
        raise AttarError(f"prior must have one number for each of the {labels} classes, got {prior.size}.")
    if not (prior > 0).all() or not np.isfinite(prior).all():
        place = int(np.flatnonzero(~((prior > 0) & np.isfinite(prior)))[0])
        raise AttarError(
            f"prior must be above 0 for every class, got {prior[place]:g} at place {place}: no finite bias takes all "
            "mass from a class. Give it a small number, or drop the class from the task."
        )
    if abs(prior.sum() - 1) > 1e-6:
        raise AttarError(f"prior must sum to 1, got {prior.sum():g}. Divide each number by their sum.")
    return np.asarray(prior / prior.sum())


def class_bias(
    scores: np.ndarray, prior: np.ndarray, only: Sequence[int] | None = None, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Return the bias ``b`` for which the mean of ``softmax(scores + b)`` is the prior.

    Over data with the class frequencies ``prior``, the mean of the true posteriors is ``prior``: that is the fixed
    point of the EM prior adjustment. A student taught on other frequencies breaks it, and a bias a class, the log of
    the ratio of the two frequencies, is what repairs a posterior. The bias that restores the fixed point is the
    minimum of the convex ``mean logsumexp(scores + b) - prior · b``, unique up to a constant.

    Newton's step, or a part of it, is taken where it shortens the distance to the prior well; else a step of
    proportional fitting, ``b += log prior - log mass``, which never adds to the distance and converges from
    anywhere. Scores that are far apart are softened first and then cooled.

    Args:
        scores: ``(examples, labels)`` logits of the student on unlabelled examples; -inf rules a class out.
        prior: ``(labels,)``, each above 0, summing to 1.
        only: the classes whose mass must be their prior; all others share one bias, and keep their masses relative
            to each other but for examples that the classes of ``only`` take or give. None for every class.
        tolerance: largest difference of a class's mean mass from its prior.

    Returns:
        ``(labels,)`` float64 with mean 0: only differences between classes count.

    Raises:
        AttarError: the prior is none of these classes, there is no example, a score is NaN or infinite, or so many
            scores are -inf that no bias gives this prior.
        ValueError: ``only`` names a class twice or none that exists.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 3 (a class missing
        from the transfer set, its bias raised by hand); Saerens, Latinne and Decaestecker, "Adjusting the Outputs of
        a Classifier to New a Priori Probabilities", Neural Computation 14, 2002, section 2; Deming and
        Stephan, "On a Least Squares Adjustment of a Sampled Frequency Table", 1940 (proportional fitting).

    Example:
        >>> class_bias(np.zeros((5, 2)), np.array([0.5, 0.5]))
        array([0., 0.])
        >>> class_bias(np.zeros((5, 2)), np.array([0.2, 0.8])).round(4)
        array([-0.6931,  0.6931])
    """
    scores = _usable(np.asarray(scores, np.float64))
    prior = checked(prior, scores.shape[1])
    rest = np.setdiff1d(np.arange(len(prior)), [] if only is None else only)
    if only is None or len(rest) == 0:
        return _matched(scores, prior, tolerance)
    chosen = np.asarray(only, np.int64)
    if len(chosen) + len(rest) != len(prior):
        raise ValueError(f"only must name different classes from 0 to {len(prior) - 1}, got {list(only)}")
    # a shared bias moves the rest as one class, whose score is their log-sum-exp
    one = np.logaddexp.reduce(scores[:, rest], axis=1)
    found = _matched(np.column_stack([scores[:, chosen], one]), np.append(prior[chosen], prior[rest].sum()), tolerance)
    bias = np.full(len(prior), found[-1])
    bias[chosen] = found[:-1]
    return np.asarray(bias - bias.mean())


def _matched(scores: np.ndarray, prior: np.ndarray, tolerance: float) -> np.ndarray:
    bias = np.zeros(len(prior))
    for heat in _cooling(scores):
        # the step from one heat to the next is small enough for Newton; confident scores at once are not
        bias = heat * _solve(scores / heat, prior, bias / heat, tolerance)
    return np.asarray(bias - bias.mean())


def _cooling(scores: np.ndarray) -> list[float]:
    spread = float(np.std(scores[np.isfinite(scores)]))
    return [2.0**power for power in range(max(0, math.ceil(math.log(max(spread, 1.0) / 16, 2))), -1, -1)]


def _solve(scores: np.ndarray, prior: np.ndarray, bias: np.ndarray, tolerance: float) -> np.ndarray:
    log_p = log_softmax(scores + bias)
    for _ in range(MOST_STEPS):
        mass = np.exp(log_p).mean(axis=0)
        if np.abs(mass - prior).max() <= tolerance:
            return bias
        bias, log_p = _better(scores, prior, bias, log_p)
    raise AttarError(
        f"No bias gives the prior {np.round(prior, 4).tolist()}: after {MOST_STEPS} steps the mean masses are "
        f"{np.round(mass, 4).tolist()}. Too many scores are -inf, or further apart than float64 can tell."
    )


def _usable(scores: np.ndarray) -> np.ndarray:
    if scores.ndim != 2 or 0 in scores.shape:
        raise AttarError(f"A prior correction needs at least one unlabelled example, got scores {scores.shape}.")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise AttarError("A prior correction needs finite scores, and the student gives NaN or infinity.")
    out = np.isneginf(scores)
    if out.all(axis=0).any():
        place = int(np.flatnonzero(out.all(axis=0))[0])
        raise AttarError(f"Class {place} has the score -inf on every example: no bias gives it mass.")
    if out.all(axis=1).any():
        raise AttarError("An example has the score -inf for every class.")
    return np.asarray(scores - scores.max(axis=1, keepdims=True))


def _better(
    scores: np.ndarray, prior: np.ndarray, bias: np.ndarray, log_p: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the next bias with its log-probabilities."""
    probabilities = np.exp(log_p)
    mass = probabilities.mean(axis=0)
    far = np.abs(mass - prior).sum()
    for step in _newton_steps(probabilities, mass, prior):
        for part in PARTS:
            tried = log_softmax(scores + (bias + part * step))
            if np.abs(np.exp(tried).mean(axis=0) - prior).sum() <= (1 - 0.2 * part) * far:
                return bias + part * step, tried
    bias = bias + np.log(prior) - _log_mean(log_p)
    return bias, log_softmax(scores + bias)


def _newton_steps(probabilities: np.ndarray, mass: np.ndarray, prior: np.ndarray) -> Iterator[np.ndarray]:
    """Yield Newton's step, then a damped one, for where the curvature is almost singular."""
    curve = np.diag(mass) - probabilities.T @ probabilities / len(probabilities)
    pinned = curve + 1.0 / len(mass)  # a constant changes nothing: pin the mean
    for damping in DAMPING:
        try:
            step = np.linalg.solve(pinned + damping * np.diag(mass), prior - mass)
        except np.linalg.LinAlgError:
            continue
        if np.abs(step).max() < FARTHEST:  # beyond is noise: a class of almost no mass has almost no curvature
            yield step - step.mean()


def _log_mean(log_p: np.ndarray) -> np.ndarray:
    """Return the log of the mean of probabilities over examples, also where they are too small for a float."""
    top = log_p.max(axis=0)
    return np.asarray(top + np.log(np.exp(log_p - top).mean(axis=0)))
