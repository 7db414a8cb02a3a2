"""Show a writer what a prompt got wrong, and ask for a better instruction."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

from pydantic import Field

from attar.core.prompting import Child, Ground
from attar.prompts.moves.asking import (
    Request,
    about,
    ask,
    choices,
    failed,
    instructed,
    old_instructions,
    paragraphs,
    short,
    told,
)
from attar.prompts.moves.brood import draw_parents
from attar.prompts.writing.answers import Rules
from attar.settings import Settings

WANTED = (
    "Think about why these answers are wrong, then write the instruction anew, so that it avoids such mistakes in any "
    "text. Do not repeat the texts above. Write only the new instruction."
)


class ReflectionSettings(Settings):
    """Set what a writer is shown when it mends an instruction."""

    failures: int = Field(4, ge=1, le=32, description="wrong answers shown, drawn from those of the prompt")
    characters: int = Field(300, ge=20, description="of an example that are shown")
    most_characters: int = Field(800, ge=20, description="of an instruction; a longer one is refused")


class Reflection:
    """Mend instructions by their failures through a writer (`attar.core.prompting.Move`).

    Reference:
        Pryzant et al., "Automatic Prompt Optimization with 'Gradient Descent' and Beam Search", EMNLP 2023,
        section 2.1 (here the criticism and the new instruction are one request, which halves the calls).
    """

    Settings = ReflectionSettings
    needs: ClassVar[frozenset[str]] = frozenset({"writer"})

    def __init__(self, settings: ReflectionSettings | None = None) -> None:
        self.settings = settings or ReflectionSettings()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts with mended instructions; none where no prompt has failures.

        Raises:
            AttarError: there is no writer.
        """
        wrong = tuple(standing for standing in ground.standings if standing.failures)
        return ask(ground, count, "reflection", partial(self._request, ground, replace(ground, standings=wrong)))

    def _request(self, ground: Ground, wrong: Ground) -> Request | None:
        for parent in draw_parents(wrong):
            size = min(self.settings.failures, len(parent.failures))
            places = sorted(ground.random.choice(len(parent.failures), size, replace=False))
            shown = [parent.failures[int(place)] for place in places]
            text = paragraphs(
                f"The task of an assistant: {ground.task}" if ground.task else "",
                f"The assistant was told:\n{told(parent.prompt) or '(nothing)'}",
                choices(parent.prompt),
                f"It answered these wrongly:\n\n{failed(shown, self.settings.characters)}",
                WANTED,
                "Instruction:",
            )
            seen = (short(failure.text, self.settings.characters) for failure in shown)
            rules = Rules(
                most_characters=self.settings.most_characters,
                shown=(*seen, WANTED),
                old=old_instructions(ground),
                about=about(ground, parent.prompt),
            )
            make = partial(instructed, parent.prompt)
            return Request(text, (parent,), make, f"mended by {size} failures", "mended", rules)
        return None
