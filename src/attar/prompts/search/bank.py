"""Race a bank of prompts: score all on a few examples, drop what is worse for sure or probably, go on with the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from attar.core.examples import UNKNOWN
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.scoring import batch_calibration, calibrate, log_softmax

ALPHA = 0.1  # one-sided: a prompt is dropped when the leader beats it at this level on the same examples
KEEP = 0.4  # share of the prompts that goes on after a round at most: bounds the cost of the race
FINALISTS = 2


@dataclass(frozen=True)
class Reading:
    """Hold one way to read a scored prompt: which words, calibrated or not, and how good it is.

    Args:
        prompt: with the words and the calibration.
        calibration: ``"none"`` or ``"batch"``.
        score: accuracy on labeled examples, else mutual information in nats.
        margin: breaks ties: mean log-probability of the gold label (0 without labels).
        right: ``(examples,)`` 1 where the answer was right; empty without labels.
        n: examples it stands on.
    """

    prompt: TextPrompt
    calibration: str
    score: float
    margin: float
    right: np.ndarray
    n: int

    @property
    def rank(self) -> tuple[float, float]:
        """Return what readings are compared by."""
        return (self.score, self.margin)


def mutual_information(scores: np.ndarray) -> float:
    """Return how much a prompt's answers tell texts apart: entropy of the mean answer less the mean entropy.

    Needs no labels. High when each answer is sure and the answers differ.

    Args:
        scores: ``(texts, labels)`` log-probabilities.

    Returns:
        Nats, from 0 to log(labels).

    Reference:
        Sorensen et al., "An Information-theoretic Approach to Prompt Engineering Without Ground Truth Labels",
        ACL 2022, equation 3.

    Example:
        >>> round(mutual_information(np.log(np.array([[0.99, 0.01], [0.01, 0.99]]))), 3)
        0.637
    """
    p = np.exp(log_softmax(scores))
    mean = p.mean(axis=0)
    return float(-(mean * np.log(mean + 1e-12)).sum() + (p * np.log(p + 1e-12)).sum(axis=-1).mean())


class BankSearch:
    """Find the best of a bank of prompts with few forward passes (`attar.core.nouns.PromptSearch`).

    One forward pass of a template serves every set of label words and both calibrations. After each block of
    examples the prompts that lose to the leader in a paired t-test are out, and at most two fifths go on; the
    block then doubles. The two best of the first round come back with demonstrations.

    Args:
        prompts: what the model may read; the first is the recipe's own.
        readings: the sets of words a prompt may be read with.
        labels: ``(examples,)`` gold labels of the validation examples, or `UNKNOWN`.
        calibrations: of ``"none"`` and ``"batch"``.
        block: examples of the first round.
        demonstrate: makes the variants of a prompt that show solved examples.
    """

    def __init__(
        self,
        prompts: Sequence[TextPrompt],
        readings: Callable[[TextPrompt], Sequence[tuple[str, ...]]],
        labels: np.ndarray,
        calibrations: Sequence[str],
        block: int,
        demonstrate: Callable[[TextPrompt], Sequence[TextPrompt]],
    ) -> None:
        if len(labels) == 0:
            raise AttarError("A search for prompts needs validation examples, got none. Change data's sizes.")
        self._labels = labels
        self._readings = readings
        self._calibrations = tuple(calibrations)
        self._demonstrate = demonstrate
        self._prompts = {prompt.forward_id: prompt for prompt in prompts}
        self.words = tuple(dict.fromkeys(w for p in prompts for words in readings(p) for w in words))
        self._alive = list(self._prompts)
        self._scores: dict[str, np.ndarray] = {name: np.zeros((0, len(self.words)), np.float32) for name in self._alive}
        self._left: dict[str, str] = {}
        self._target = min(block, len(labels))
        self._round = 0

    def ask(self) -> tuple[TextPrompt, int, int] | None:
        """Return the next prompt and the examples ``first`` to ``last`` to score it on; None when the race is over."""
        while True:
            for name in self._alive:
                done = len(self._scores[name])
                if done < self._target:
                    return self._prompts[name], done, self._target
            if self._target == len(self._labels):
                return None
            self._eliminate()

    def tell(self, prompt: TextPrompt, first: int, last: int, scores: np.ndarray) -> None:
        """Take logits ``(last - first, words)`` of ``self.words``."""
        name = prompt.forward_id
        if len(self._scores[name]) != first or scores.shape != (last - first, len(self.words)):
            raise ValueError(f"scores must follow those known ({len(self._scores[name])}), got {first} to {last}")
        self._scores[name] = np.concatenate([self._scores[name], scores.astype(np.float32)])

    def state(self) -> dict[str, Any]:
        """Return the prompts and how each left the race."""
        return {
            "round": self._round,
            "examples": self._target,
            "alive": [self._prompts[name].name for name in self._alive],
            "left": {self._prompts[name].name: reason for name, reason in self._left.items()},
        }

    @property
    def expected(self) -> int:
        """Return about how many examples the race will score: the first round, and half as many again for the rest."""
        return len(self._prompts) * self._target + FINALISTS * len(self._labels)

    @property
    def criterion(self) -> str:
        """Return in words what prompts are chosen by."""
        if self._labeled:
            return "accuracy on validation, then the mean log-probability of the gold label"
        return "mutual information between texts and answers on validation, without gold labels"

    @property
    def _labeled(self) -> bool:
        return bool((self._labels != UNKNOWN).all())

    def best(self, name: str) -> Reading:
        """Return the best reading of one forward."""
        return max(self.readings(name), key=lambda reading: reading.rank)

    def readings(self, name: str) -> list[Reading]:
        """Return every reading of one forward on the examples it was scored on."""
        prompt, scores = self._prompts[name], self._scores[name]
        return [
            self._read(prompt, scores[:, [self.words.index(word) for word in words]], words, calibration)
            for words in self._readings(prompt)
            for calibration in self._calibrations
        ]

    def winner(self) -> Reading:
        """Return the best reading of the prompts that reached the end."""
        return max((self.best(name) for name in self._alive), key=lambda reading: reading.rank)

    def scores_of(self, reading: Reading) -> np.ndarray:
        """Return the calibrated log-probabilities ``(examples, labels)`` behind a reading."""
        columns = [self.words.index(word) for word in reading.prompt.words]
        scores = self._scores[reading.prompt.forward_id]
        return calibrate(scores[:, columns], reading.prompt.calibration)

    def table(self) -> list[tuple[Reading, str]]:
        """Return each prompt's best reading and how it left the race, best first."""
        winner = self.winner().prompt
        rows = []
        for name in self._prompts:
            reading = self.best(name)
            left = "won" if reading.prompt == winner else self._left.get(name, "lost in the last round")
            rows.append((reading, left))
        return sorted(rows, key=lambda row: (row[1] == "won", row[0].n, *row[0].rank), reverse=True)

    def _read(self, prompt: TextPrompt, scores: np.ndarray, words: tuple[str, ...], calibration: str) -> Reading:
        bias = batch_calibration(scores) if calibration == "batch" else None
        said = calibrate(scores, bias)
        chosen = replace(prompt, words=words, calibration=bias)
        if not self._labeled:
            return Reading(chosen, calibration, mutual_information(said), 0.0, np.zeros(0), len(scores))
        gold = self._labels[: len(scores)]
        right = (said.argmax(axis=-1) == gold).astype(np.float64)
        margin = float(said[np.arange(len(gold)), gold].mean())
        return Reading(chosen, calibration, float(right.mean()), margin, right, len(scores))

    def _eliminate(self) -> None:
        ranked = sorted(self._alive, key=lambda name: self.best(name).rank, reverse=True)
        if self._round == 0:
            best = [replace(self.best(name).prompt, calibration=None) for name in ranked[:2]]
            self._join([variant for prompt in best for variant in self._demonstrate(prompt)])
        keep = max(FINALISTS, int(np.ceil(KEEP * len(ranked))))
        leader = self.best(ranked[0])
        stays = []
        for place, name in enumerate(ranked):
            worse = place > 0 and self._surely_worse(self.best(name), leader)
            if worse or place >= keep:
                self._left[name] = f"raced out after {self._target}"
            else:
                stays.append(name)
        joined = [name for name in self._alive if name not in ranked]
        self._alive = [*stays, *joined]
        self._round += 1
        self._target = min(2 * self._target, len(self._labels)) if len(self._alive) > FINALISTS else len(self._labels)

    def _join(self, variants: Sequence[TextPrompt]) -> None:
        for prompt in variants:
            if prompt.forward_id not in self._prompts and set(prompt.words) <= set(self.words):
                self._prompts[prompt.forward_id] = prompt
                self._scores[prompt.forward_id] = np.zeros((0, len(self.words)), np.float32)
                self._alive.append(prompt.forward_id)

    def _surely_worse(self, reading: Reading, leader: Reading) -> bool:
        if not self._labeled:
            return False
        difference = leader.right - reading.right
        if difference.std() == 0:
            return bool(difference.mean() > 0)
        return bool(stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue < ALPHA)
