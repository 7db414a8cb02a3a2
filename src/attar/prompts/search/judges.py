"""Turn what was scored under a prompt into readings: how good the prompt is, by each way to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from attar.core.prompt import TextPrompt
from attar.core.prompting import Failure
from attar.errors import AttarError
from attar.prompts.calibration import CONTENT_FREE, batch_calibration, calibrate, content_free_calibration
from attar.prompts.search.criteria import CRITERIA, Aim, likelihood

SHOWN_FAILURES = 4
"""Failures that a standing carries: what a writer can read at once."""


@dataclass(frozen=True)
class Reading:
    """Hold one way to read a scored prompt, and how good it is.

    Args:
        prompt: with the label words and the calibration of this reading.
        calibration: its name.
        values: ``(examples,)`` of the criterion; higher is better.
        tie: breaks ties between equal means.
        said: ``(examples, labels)`` calibrated log-probabilities; for tasks that write, the values themselves.
    """

    prompt: TextPrompt
    calibration: str
    values: np.ndarray
    tie: float
    said: np.ndarray

    @property
    def rank(self) -> tuple[float, float]:
        """Return what readings are compared by."""
        return (float(self.values.mean()), self.tie)


class Judge(Protocol):
    """Judge prompts on the examples of a split."""

    columns: tuple[str, ...]
    """Label words that are read under every prompt; empty for tasks that write."""
    criterion: str

    def sizes(self) -> Mapping[str, int]:
        """Return the number of examples of each split."""

    def readings(
        self, prompt: TextPrompt, scores: np.ndarray, free: np.ndarray | None, more: Sequence[tuple[str, ...]]
    ) -> list[Reading]:
        """Return the ways to read a prompt on the first examples of the race."""

    def values(self, prompt: TextPrompt, scores: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return values and answers of one reading, the prompt's own words and calibration, on a split."""

    def failures(self, reading: Reading) -> tuple[Failure, ...]:
        """Return examples of the race that a reading gets wrong, the worst first."""


class LabelJudge:
    """Judge label words: each set of words, each calibration is a reading of the same forward pass.

    Args:
        texts: of the race.
        aims: split -> what answers are compared with; ``"race"`` and ``"held out"``.
        readable: the sets of words that a prompt may be read with.
        calibrations: of ``none``, ``batch``, ``contextual`` and ``domain``, those to try.
        criterion: a name of `attar.prompts.search.criteria.CRITERIA`.
        prompts: the first prompts: the words they may be read with are the columns of all scores.
    """

    def __init__(
        self,
        texts: Sequence[str],
        aims: Mapping[str, Aim],
        readable: Callable[[TextPrompt], Sequence[tuple[str, ...]]],
        calibrations: Sequence[str],
        criterion: str,
        prompts: Sequence[TextPrompt],
    ) -> None:
        self.criterion = criterion
        self.columns = tuple(dict.fromkeys(w for prompt in prompts for words in readable(prompt) for w in words))
        self._texts = texts
        self._aims = aims
        self._readable = readable
        self._calibrations = tuple(calibrations)

    def sizes(self) -> Mapping[str, int]:
        """Return the number of examples of each split."""
        return {split: len(aim) for split, aim in self._aims.items()}

    def readings(
        self, prompt: TextPrompt, scores: np.ndarray, free: np.ndarray | None, more: Sequence[tuple[str, ...]]
    ) -> list[Reading]:
        """Return every reading on the first examples of the race.

        Args:
            prompt: what was read.
            scores: ``(examples, columns)`` log-probabilities.
            free: ``(inputs, columns)`` log-probabilities of inputs without content: contextual ones, then domain's.
            more: further sets of words to read it with.
        """
        aim = self._aims["race"].part(0, len(scores))
        found = []
        for words in (*self._readable(prompt), *more):
            places = [self.columns.index(word) for word in words]
            for name in self._calibrations:
                bias = self._bias(name, scores[:, places], None if free is None else free[:, places])
                if bias is None and name != "none":
                    continue
                said = calibrate(scores[:, places], bias)
                values = CRITERIA[self.criterion](said, aim)
                tie = float(likelihood(said, aim).mean()) if aim.labeled and len(aim) else 0.0
                chosen = replace(prompt, words=words, calibration=bias)
                found.append(Reading(chosen, name, values, tie, said))
        return found

    def values(self, prompt: TextPrompt, scores: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return values ``(examples,)`` and calibrated answers ``(examples, labels)`` of one reading on a split."""
        said = calibrate(scores[:, [self.columns.index(word) for word in prompt.words]], prompt.calibration)
        return CRITERIA[self.criterion](said, self._aims[split].part(0, len(scores))), said

    def failures(self, reading: Reading) -> tuple[Failure, ...]:
        """Return examples of the race with a gold label that a reading gets wrong, the surest mistakes first."""
        aim = self._aims["race"].part(0, len(reading.said))
        if not aim.labeled:
            return ()
        chosen = reading.said.argmax(axis=-1)
        wrong = np.flatnonzero(chosen != aim.gold)
        worst = wrong[np.argsort(likelihood(reading.said, aim)[wrong], kind="stable")][:SHOWN_FAILURES]
        words = reading.prompt.words
        return tuple(Failure(self._texts[i], words[int(aim.gold[i])], words[int(chosen[i])]) for i in worst)

    def _bias(self, name: str, scores: np.ndarray, free: np.ndarray | None) -> tuple[float, ...] | None:
        if name == "batch":
            return batch_calibration(scores)
        if name == "none" or free is None:
            return None
        said = free[: len(CONTENT_FREE)] if name == "contextual" else free[len(CONTENT_FREE) :]
        return content_free_calibration(said)


class WritingJudge:
    """Judge texts that were written by a metric that was computed already.

    Args:
        texts: of the race.
        references: of the race.
        sizes: split -> number of examples.
        criterion: name of the metric.
    """

    columns: tuple[str, ...] = ()

    def __init__(
        self, texts: Sequence[str], references: Sequence[str], sizes: Mapping[str, int], criterion: str
    ) -> None:
        self.criterion = criterion
        self._texts, self._references, self._sizes = texts, references, sizes

    def sizes(self) -> Mapping[str, int]:
        """Return the number of examples of each split."""
        return self._sizes

    def readings(
        self, prompt: TextPrompt, scores: np.ndarray, free: np.ndarray | None, more: Sequence[tuple[str, ...]]
    ) -> list[Reading]:
        """Return the one reading there is; ``scores`` are the metric's ``(examples, 1)``."""
        return [Reading(prompt, "none", scores[:, 0].astype(np.float64), 0.0, scores)]

    def values(self, prompt: TextPrompt, scores: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the metric of each example, twice."""
        return scores[:, 0].astype(np.float64), scores

    def failures(self, reading: Reading) -> tuple[Failure, ...]:
        """Return the examples with the lowest metric; what was written is not kept, so it is not shown."""
        worst = np.argsort(reading.values, kind="stable")[:SHOWN_FAILURES]
        return tuple(Failure(self._texts[i], self._references[i], "something else") for i in worst)


def check_scores(prompt: TextPrompt, scores: np.ndarray) -> None:
    """Refuse scores that are no numbers.

    Raises:
        AttarError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise AttarError(
            f"The prompt '{prompt.name}' was scored as {scores[~np.isfinite(scores)][0]}, which is no score. The model "
            "overflows in this precision: set teacher.precision: float32."
        )
