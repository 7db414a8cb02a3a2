"""Answer with a model behind an OpenAI-compatible server; every paid answer is kept in a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Signal
from attar.core.prompt import TextPrompt
from attar.core.rows import Rows, example_rows
from attar.optional import lazy
from attar.store.ledger import Ledger
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_labels import LabelReader
from attar.teachers.endpoint_pool import ask_all
from attar.teachers.endpoint_replies import Reply, TokenChoices
from attar.teachers.endpoint_requests import RequestMaker, digest, likely_input_tokens
from attar.teachers.endpoint_settings import EndpointSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

GIVES: dict[str, frozenset[Signal]] = {
    "labels": frozenset({"logits", "hard"}),
    "text": frozenset({"text"}),
    "tokens": frozenset({"text", "top_logprobs"}),
}
"""What a teacher gives in each mode."""


@dataclass(frozen=True)
class GeneratedText:
    """Hold a generated text with its tokens.

    Args:
        text: what the model wrote.
        tokens: its tokens, each with the likeliest choices in its place.
        finish: ``stop``, or ``length`` where `max_tokens` cut it.
    """

    text: str
    tokens: tuple[TokenChoices, ...]
    finish: str


@dataclass(frozen=True)
class Estimate:
    """Hold what asking would cost, before any call.

    Args:
        calls: calls to send; requests answered in the ledger are left out.
        input_tokens: about how many tokens they read: a token for every four characters, unless they were counted.
        output_tokens: most tokens they write.
        dollars: the price of both.
        answered: requests that the ledger answers for nothing.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float
    answered: int


class EndpointTeacher:
    """Answer with label probabilities or texts of a model behind an OpenAI-compatible server.

    In mode ``labels``, one call a text reads the top log-probabilities of the first token; tokens that stand for a
    label's word are added up, normalized over the labels and calibrated. A label outside the top has half the
    smallest probability seen; a text whose answer names no label has equal probabilities. `facts` counts both.

    Args:
        settings: where the model is, how it is asked and what may be spent.
        prompt: what the model reads.
        ledger: the ledger's file.
        seed: of sampled answers and of the waits between tries.
        count_tokens: counts a text's tokens for `estimate`; a quarter of the characters by default.

    Raises:
        AttarError: the label words or the prompt do not fit.
    """

    Settings = EndpointSettings

    def __init__(
        self,
        settings: EndpointSettings,
        prompt: TextPrompt,
        ledger: Path,
        seed: int = 0,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        self.settings = settings
        self.prompt = prompt
        self.ledger = Ledger(ledger)
        self.seed = seed
        self.gives = GIVES[settings.mode]
        self._maker = RequestMaker(settings, prompt, seed)
        self._count_tokens = count_tokens
        self._reader = LabelReader(prompt) if settings.mode == "labels" else None
        self._troubles: Counter[str] = Counter()
        self._cut = 0

    @property
    def fingerprint(self) -> str:
        """Return the identity of what answers: address, model, prompt and parameters, never the key."""
        prompt = {name: value for name, value in self.prompt.to_json().items() if name != "name"}
        sampled = [self.settings.temperature, self.seed] if self.settings.temperature else None
        asked = self.settings.identity()
        return digest({"teacher": "endpoint", **asked, "chat": self._maker.chat, "prompt": prompt, "sampled": sampled})

    def answer(self, examples: Examples) -> Rows:
        """Return rows ``(examples, labels)`` of calibrated log-probabilities, in the examples' order.

        Raises:
            AttarError: the server refuses or fails for good, a cap is reached, or no answer names a label.
            ValueError: the mode gives no labels.
        """
        if self._reader is None:
            raise ValueError(f"a teacher in mode {self.settings.mode} gives {sorted(self.gives)}, no rows")
        scores = self._reader.scores(self._replies(examples))
        return example_rows(torch.from_numpy(np.ascontiguousarray(examples.keys)), torch.from_numpy(scores))

    def generate(self, examples: Examples) -> list[str]:
        """Return the generated text of each example.

        Raises:
            AttarError: the server refuses or fails for good, or a cap is reached.
            ValueError: the mode gives no texts.
        """
        if self.settings.mode == "labels":
            raise ValueError("a teacher in mode labels gives no texts")
        return [reply.text for (reply,) in self._replies(examples)]

    def generate_tokens(self, examples: Examples) -> list[GeneratedText]:
        """Return the generated text of each example with its tokens' top log-probabilities.

        Raises:
            AttarError: the server refuses or fails for good, or a cap is reached.
            ValueError: the mode gives no tokens.
        """
        if self.settings.mode != "tokens":
            raise ValueError(f"a teacher in mode {self.settings.mode} gives no log-probabilities of tokens")
        return [GeneratedText(reply.text, reply.tokens or (), reply.finish) for (reply,) in self._replies(examples)]

    def estimate(self, examples: Examples) -> Estimate:
        """Return what asking these examples would cost; nothing is sent."""
        self.ledger.refresh()
        asked = self.requests(examples)
        left = [request for request in asked.values() if request.key not in self.ledger]
        read = sum(likely_input_tokens(request.body, self._count_tokens) for request in left)
        cost = self.settings.cost(read, self._maker.output_tokens * len(left), len(left))
        return Estimate(**asdict(cost), answered=len(asked) - len(left))

    def prepare(self, examples: Examples) -> None:
        """Ask about all examples at once, so that later calls of the other methods read the ledger.

        Raises:
            AttarError: the server refuses or fails for good, or a cap is reached.
        """
        asked = self.requests(examples)
        with self.ledger.held():
            left = [request for request in asked.values() if request.key not in self.ledger]
            if left:
                self._troubles += ask_all(left, self.settings, self.ledger, len(asked), self.seed)

    def facts(self) -> dict[str, float]:
        """Return what was spent, all runs of the ledger together, and what was met in this process."""
        spent, unsure = self.ledger.spent, self.ledger.unsure
        return {
            **asdict(spent),
            "unsure_calls": unsure.calls,
            "unsure_dollars": unsure.dollars,
            "duplicates": self.ledger.duplicates,
            "cut_texts": self._cut,
            **({} if self._reader is None else self._reader.counts),
            **{f"trouble: {why}": count for why, count in self._troubles.items()},
        }

    def requests(self, examples: Examples) -> dict[str, Request]:
        """Return what is asked about the examples, by the key of its content; equal texts are asked once."""
        return {one.key: one for text in examples.inputs for one in self._maker.requests(str(text))}

    def _replies(self, examples: Examples) -> list[list[Reply]]:
        self.prepare(examples)
        wanted = [self._maker.requests(str(text)) for text in examples.inputs]
        found = [[Reply.from_json(self.ledger.answer(one.key)) for one in requests] for requests in wanted]
        if self.settings.mode != "labels":
            self._cut += sum(reply.finish == "length" for (reply,) in found)
        return found
