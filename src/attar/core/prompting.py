"""Promise what a search for prompts works with: who scores, who writes, and the moves that make new prompts of old."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from attar.core.prompt import TextPrompt
from attar.settings import Settings

if TYPE_CHECKING:
    import torch


class Scorer(Protocol):
    """Read label words under prompts.

    ``token_forwards`` counts the tokens that were computed so far.
    """

    token_forwards: int

    def score_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], words: Sequence[str]) -> list[np.ndarray]:
        """Return for each prompt the log-probability of each word ``(texts, words)``, uncalibrated.

        Prompts that begin alike are computed together.
        """

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return the log-probabilities of the prompt's own labels ``(texts, labels)``, calibrated."""

    def tokens(self, prompt: TextPrompt) -> int:
        """Return the tokens that a prompt adds to every example."""


class Writer(Protocol):
    """Write texts on request: a chat model, of this process or behind an endpoint."""

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        """Return one answer for each request, without white space around it; the same for the same seed."""


class Gradient(Protocol):
    """Tell how a prompt's tokens should change."""

    def __call__(
        self, prompt: TextPrompt, texts: Sequence[str], labels: Sequence[int]
    ) -> tuple[list[int], torch.Tensor]:
        """Return the instruction's token ids ``(tokens,)``, and the loss's change for each other token.

        The change is to first order and has shape ``(tokens, vocabulary)``: negative where a token would help.
        """


@dataclass(frozen=True)
class Failure:
    """Hold an example that a prompt got wrong.

    Args:
        text: the example.
        wanted: the right answer.
        said: what the model said.
    """

    text: str
    wanted: str
    said: str


@dataclass(frozen=True)
class Standing:
    """Hold how a prompt stands in a search.

    Args:
        prompt: with its best label words and calibration.
        value: mean of the criterion; higher is better.
        n: examples it stands on.
        tokens: it adds to every example.
        failures: examples it got wrong, the worst first; a few.
    """

    prompt: TextPrompt
    value: float
    n: int
    tokens: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Child:
    """Hold a new prompt with where it comes from.

    Args:
        prompt: its name is new.
        parents: names of the prompts it was made of.
        how: what was done, for people: ``"demonstration added"``.
    """

    prompt: TextPrompt
    parents: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class Ground:
    """Hold what a move may work with.

    Args:
        standings: the best prompts so far, best first.
        random: of this call alone; a move draws from nothing else.
        pool: solved training examples ``(text, label index or answer)``; empty where gold labels are not to be used.
        labels: names of the classes; empty for tasks that write.
        words: sets of label words that may be tried.
        task: one sentence that says what is to be done, for a writer.
        tokens: counts the tokens a prompt adds.
        most_tokens: that a prompt may add.
        most_demonstrations: that a prompt may show.
        writer: writes texts, if there is one.
        gradient: tells how tokens should change, if the model is of this process.
        tokenizer: the model's, if it is of this process.
    """

    standings: tuple[Standing, ...]
    random: np.random.Generator
    pool: tuple[tuple[str, int | str], ...] = ()
    labels: tuple[str, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    task: str = ""
    tokens: Callable[[TextPrompt], int] = field(default=lambda prompt: len(prompt.render("").split()))
    most_tokens: int = 1024
    most_demonstrations: int = 4
    writer: Writer | None = None
    gradient: Gradient | None = None
    tokenizer: Any = None


class Move(Protocol):
    """Make new prompts of those that stand best; given the same ground it makes the same.

    ``needs`` names what it cannot work without: ``"gold"`` (solved examples), ``"writer"``, ``"gradient"``.
    """

    Settings: ClassVar[type[Settings]]
    needs: ClassVar[frozenset[str]]

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` new prompts; fewer, or none, where it finds no more."""


@dataclass(frozen=True)
class Ask:
    """Say what is to be scored next: prompts that belong together, and the examples ``first`` to ``last``.

    Args:
        prompts: what the model reads.
        first: the first example's place.
        last: one beyond the last example's place.
        split: ``"race"``, or ``"held out"`` for the examples that judge the winner, once.
    """

    prompts: tuple[TextPrompt, ...]
    first: int
    last: int
    split: str = "race"


class PromptSearch(Protocol):
    """Look for a prompt: ask what to score, tell the scores; the state is JSON, so the journal can hold it."""

    def ask(self) -> Ask | None:
        """Return what to score next, or None at the end."""

    def tell(self, ask: Ask, scores: Sequence[np.ndarray]) -> None:
        """Take what was scored: for each prompt an array ``(last - first, columns)``."""

    def state(self) -> Mapping[str, Any]:
        """Return all that was learned, as JSON values."""
