"""Say how good a prompt's answers are, example by example: by gold labels, by a teacher, or by neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from attar.core.examples import UNKNOWN
from attar.errors import AttarError
from attar.prompts.calibration import log_softmax


@dataclass(frozen=True)
class Aim:
    """Hold what answers are compared with.

    Args:
        gold: ``(examples,)`` labels, or `attar.core.examples.UNKNOWN`.
        teacher: ``(examples, labels)`` a teacher's log-probabilities, or None.
    """

    gold: np.ndarray
    teacher: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.gold)

    @property
    def labeled(self) -> bool:
        """Tell whether every example has a gold label."""
        return bool((self.gold != UNKNOWN).all())

    def part(self, first: int, last: int) -> Aim:
        """Return the aim of some examples."""
        return Aim(self.gold[first:last], None if self.teacher is None else self.teacher[first:last])


def accuracy(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return 1 where the likeliest label is the gold one."""
    return np.asarray(said.argmax(axis=-1) == aim.gold, np.float64)


def likelihood(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return the log-probability of the gold label, in nats."""
    return np.asarray(said[np.arange(len(said)), aim.gold], np.float64)


def log_odds(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return the gold label's log-odds against all others together, in nats."""
    gold = np.exp(likelihood(said, aim)).clip(1e-12, 1 - 1e-12)
    return np.asarray(np.log(gold / (1 - gold)))


def agreement(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return 1 where the likeliest label is the teacher's; needs no gold label."""
    return np.asarray(said.argmax(axis=-1) == _teacher(aim).argmax(axis=-1), np.float64)


def kl(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return minus the divergence KL(teacher, prompt), in nats; needs no gold label."""
    wanted = log_softmax(_teacher(aim).astype(np.float64))
    return np.asarray(-(np.exp(wanted) * (wanted - said)).sum(axis=-1))


def mutual_information(said: np.ndarray, aim: Aim) -> np.ndarray:
    """Return how far each answer is from the mean answer, KL(answer, mean), in nats; needs nothing but the answers.

    Its mean is the mutual information between texts and answers: high when each answer is sure and answers differ.

    Reference:
        Sorensen et al., "An Information-theoretic Approach to Prompt Engineering Without Ground Truth Labels",
        ACL 2022, equation 3.

    Example:
        >>> said = np.log(np.array([[0.99, 0.01], [0.01, 0.99]]))
        >>> round(float(mutual_information(said, Aim(np.array([-1, -1]))).mean()), 3)
        0.637
    """
    mean = np.log(np.exp(said.astype(np.float64)).mean(axis=0) + 1e-12)
    return np.asarray((np.exp(said) * (said - mean)).sum(axis=-1))


def _teacher(aim: Aim) -> np.ndarray:
    if aim.teacher is None:
        raise ValueError("the criterion compares with a teacher, and there is none")
    return aim.teacher


CRITERIA: Mapping[str, Callable[[np.ndarray, Aim], np.ndarray]] = {
    "accuracy": accuracy,
    "likelihood": likelihood,
    "log_odds": log_odds,
    "agreement": agreement,
    "kl": kl,
    "mutual_information": mutual_information,
}
NEEDS = {"accuracy": "gold", "likelihood": "gold", "log_odds": "gold", "agreement": "teacher", "kl": "teacher"}


def choose_criterion(name: str, aim: Aim) -> str:
    """Return the criterion to use: of ``auto``, what fits what is known.

    Raises:
        AttarError: the criterion needs what is not there.

    Example:
        >>> choose_criterion("auto", Aim(np.array([0, 1]))), choose_criterion("auto", Aim(np.array([-1, -1])))
        ('accuracy', 'mutual_information')
    """
    if name == "auto":
        if aim.labeled:
            return "accuracy"
        return "kl" if aim.teacher is not None else "mutual_information"
    if NEEDS.get(name) == "gold" and not aim.labeled:
        raise AttarError(
            f"The criterion {name} needs gold labels on validation, and the recipe allows none there. Allow them "
            "(data.gold: [validation]), or choose mutual_information, kl or agreement."
        )
    if NEEDS.get(name) == "teacher" and aim.teacher is None:
        raise AttarError(
            f"The criterion {name} compares with a teacher, and here is none: the prompt is the teacher's own. "
            "Choose accuracy, likelihood, log_odds or mutual_information."
        )
    return name
