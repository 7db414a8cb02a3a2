"""Shorten a prompt: drop a sentence, a phrase, filler words or demonstrations, so that it costs less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

from pydantic import Field

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground
from attar.prompts.moves.brood import Brood, child_name
from attar.prompts.moves.pieces import PARTS, phrases, removals, rewritten, sentences, text_of, without, words
from attar.settings import Settings

FILLERS = (
    *("a", "an", "the", "this", "that", "these", "those", "please", "just", "very", "really", "actually", "simply"),
    *("carefully", "clearly", "following", "given", "below", "above", "provided", "overall", "specific", "exactly"),
)


class Shorten:
    r"""Drop what a prompt may not need: each child adds fewer tokens than its parent.

    The places of the example and the options stay.

    Args:
        settings: see `Shorten.Settings`.

    Example:
        >>> import numpy as np
        >>> from attar.core.prompting import Standing
        >>> polite = TextPrompt("{text}\nMood:", ("bad", "good"), instruction="Please judge.")
        >>> ground = Ground((Standing(polite, 0.5, 32, 3),), np.random.default_rng(0))
        >>> sorted(child.prompt.instruction for child in Shorten(Shorten.Settings())(ground, 9))
        ['', 'Please judge.', 'judge.']
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    class Settings(Settings):
        """Set what is cut."""

        longest: int = Field(4, ge=1, description="words of a phrase at most")
        fillers: tuple[str, ...] = Field(FILLERS, description="words to leave out together, in lower case")

    def __init__(self, settings: Shorten.Settings) -> None:
        self.settings = settings

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts that are shorter than their parents (`attar.core.prompting.Move`)."""
        brood = Brood(ground, count)
        for (parent,) in brood.parents():
            before = parent.prompt
            shorter = list(self._shorter(before))
            if shorter:
                prompt, how = shorter[int(ground.random.integers(len(shorter)))]
                if ground.tokens(prompt) < ground.tokens(before):
                    brood.add(prompt, how, parent)
        return brood.children

    def _shorter(self, prompt: TextPrompt) -> Iterator[tuple[TextPrompt, str]]:
        shown = prompt.demonstrations
        for place in range(len(shown)):
            yield _showing(prompt, shown[:place] + shown[place + 1 :]), f"demonstration {place + 1} dropped"
        if len(shown) > 1:
            yield _showing(prompt, ()), "all demonstrations dropped"
        found = [*removals(prompt, sentences), *removals(prompt, partial(phrases, longest=self.settings.longest))]
        found += self._without_fillers(prompt)
        if not any(piece.fixed for piece in words(prompt.instruction)):
            found.append((replace(prompt, instruction=""), prompt.instruction))
        name = child_name(prompt.name, "short", len(shown))
        for shorter, gone in found:
            yield replace(shorter, name=name), f"'{gone}' dropped"

    def _without_fillers(self, prompt: TextPrompt) -> list[tuple[TextPrompt, str]]:
        """Return the prompt without its filler words; nothing where it has none."""
        gone, fillers = [], frozenset(self.settings.fillers)
        for part in PARTS:
            pieces = words(text_of(prompt, part))
            for place in reversed(range(len(pieces))):
                if pieces[place].body.lower() in fillers:
                    gone.append(pieces[place].body)
                    pieces = without(pieces, place)
            prompt = rewritten(prompt, part, pieces)
        return [(prompt, " ".join(reversed(gone)))] if gone else []


def _showing(prompt: TextPrompt, shown: tuple[tuple[str, int | str], ...]) -> TextPrompt:
    return replace(prompt, demonstrations=shown, name=child_name(prompt.name, "", len(shown)))
