"""Let a writer merge the instructions of two prompts; the child shows some of both prompts' demonstrations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from attar.core.prompt import Shown
from attar.core.prompting import Child, Ground, Standing
from attar.prompts.moves.asking import Request, about, ask, instructed, old_instructions, paragraphs, told
from attar.prompts.moves.brood import draw_parents
from attar.prompts.writing.answers import Rules
from attar.settings import Settings

WANTED = "Merge these two instructions into one that keeps the best of both. Write only the new instruction."


class MergeSettings(Settings):
    """Set how instructions are merged."""

    most_characters: int = Field(600, ge=20, description="of a new instruction; a longer one is refused")


class Merge:
    """Cross two prompts through a writer (`attar.core.prompting.Move`).

    Template and label words are those of the parent that stands better.

    Reference:
        Zehle et al., "CAPO: Cost-Aware Prompt Optimization", AutoML 2025, section 3 (crossover: one instruction of
        two, as many demonstrations as the parents' mean, drawn from both).
    """

    Settings = MergeSettings
    needs: ClassVar[frozenset[str]] = frozenset({"writer"})

    def __init__(self, settings: MergeSettings | None = None) -> None:
        self.settings = settings or MergeSettings()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` children of two prompts each; none where fewer than two have an instruction.

        Raises:
            AttarError: there is no writer.
        """
        told_ones = tuple(standing for standing in ground.standings if standing.prompt.instruction)
        return ask(ground, count, "merge", partial(self._request, ground, replace(ground, standings=told_ones)))

    def _request(self, ground: Ground, told_ones: Ground) -> Request | None:
        parents = draw_parents(told_ones, 2)
        texts = [told(parent.prompt) for parent in parents]
        if len(set(texts)) < 2:
            return None
        text = paragraphs(WANTED, f"First: {texts[0]}", f"Second: {texts[1]}", "New instruction:")
        rules = Rules(
            most_characters=self.settings.most_characters,
            shown=(WANTED,),
            old=old_instructions(ground),
            about=(*about(ground, parents[0].prompt), texts[1]),
        )
        better = replace(parents[0].prompt, demonstrations=crossed(parents, ground.random))
        return Request(text, tuple(parents), partial(instructed, better), "merged", "merged", rules)


def crossed(parents: list[Standing], random: np.random.Generator) -> Shown:
    """Return demonstrations drawn from two prompts, as many as their mean."""
    first, second = (parent.prompt.demonstrations for parent in parents)
    both = list(dict.fromkeys((*first, *second)))
    size = min(len(both), (len(first) + len(second) + 1) // 2)
    return tuple(both[int(place)] for place in random.choice(len(both), size, replace=False)) if size else ()
