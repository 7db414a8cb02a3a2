"""Score prompts with a model behind an OpenAI-compatible server; every paid answer is kept in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attar.core.prompt import TextPrompt, relabel
from attar.errors import AttarError
from attar.store.spending import Cost
from attar.teachers.endpoint import EndpointTeacher
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_labels import LabelReader
from attar.teachers.endpoint_pool import ask_all
from attar.teachers.endpoint_replies import Reply
from attar.teachers.endpoint_requests import RequestMaker, likely_input_tokens


class EndpointScorer:
    """Read label words from an endpoint under many prompts (`attar.core.prompting.Scorer`).

    What all prompts of a call ask is sent together, as many calls at once as the settings allow. An answer in the
    ledger is never paid again: other words and calibrations are read from the same answers.

    Args:
        teacher: the endpoint, in mode ``labels``; its own prompt does not matter.

    Raises:
        AttarError: the mode gives no labels.
    """

    def __init__(self, teacher: EndpointTeacher) -> None:
        if teacher.settings.mode != "labels":
            raise AttarError(
                f"Scoring label words needs an endpoint with mode: labels, got {teacher.settings.mode}. "
                "Set mode: labels."
            )
        self.teacher = teacher
        self._before = teacher.ledger.total
        self.token_forwards = 0  # read and written by paid calls since this scorer was made

    def score_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], words: Sequence[str]) -> list[np.ndarray]:
        """Return for each prompt the log-probability of each word, uncalibrated.

        The probabilities are among the words asked for: a server tells only the likeliest tokens. A text whose answer
        names no word has equal probabilities.

        Args:
            prompts: what the model reads.
            texts: the examples.
            words: words to read.

        Returns:
            For each prompt ``(texts, words)`` float32 log-probabilities.

        Raises:
            AttarError: words begin alike, the server refuses or fails for good, or a cap is reached.
        """
        if not words:
            raise AttarError("There is no label word to score, and each label needs one. Give the labels' words.")
        replies = self._replies(prompts, texts)
        return [_read(relabel(prompt, tuple(words)), said) for prompt, said in zip(prompts, replies, strict=True)]

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return the log-probabilities of the prompt's own labels ``(texts, labels)``, calibrated."""
        return _read(prompt, self._replies([prompt], texts)[0])

    @property
    def spent(self) -> Cost:
        """Return what was paid since this scorer was made."""
        return self.teacher.ledger.total - self._before

    def tokens(self, prompt: TextPrompt) -> int:
        """Return about how many tokens a prompt adds to every example: one for every four characters."""
        return likely_input_tokens(self._maker(prompt).requests("")[0].body, None)

    def _maker(self, prompt: TextPrompt) -> RequestMaker:
        return RequestMaker(self.teacher.settings, prompt, self.teacher.seed)

    def _replies(self, prompts: Sequence[TextPrompt], texts: Sequence[str]) -> list[list[list[Reply]]]:
        """Return the replies about each text under each prompt; what is not in the ledger is asked."""
        makers = [self._maker(replace(prompt, calibration=None)) for prompt in prompts]
        asked = [[maker.requests(text) for text in texts] for maker in makers]
        wanted = {one.key: one for rows in asked for requests in rows for one in requests}
        self._pay(wanted)
        ledger = self.teacher.ledger
        return [[[Reply.from_json(ledger.answer(one.key)) for one in requests] for requests in rows] for rows in asked]

    def _pay(self, wanted: dict[str, Request]) -> None:
        ledger = self.teacher.ledger
        with ledger.held():
            left = [request for key, request in wanted.items() if key not in ledger]
            try:
                if left:
                    ask_all(left, self.teacher.settings, ledger, len(wanted), self.teacher.seed)
            finally:
                self.token_forwards = self.spent.tokens


def _read(prompt: TextPrompt, replies: Sequence[Sequence[Reply]]) -> np.ndarray:
    """Return log-probabilities ``(texts, labels)``; unlike a teacher's prompt, a candidate may name no label at all."""
    reader = LabelReader(prompt)
    rows = [reader.scores([said]) for said in replies]  # one at a time: "no answer names a label" is a score here
    return np.concatenate([np.zeros((0, len(prompt.words)), np.float32), *rows])
