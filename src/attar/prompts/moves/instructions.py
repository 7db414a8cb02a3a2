"""Let a writer propose instructions from the task, a few examples and what was tried."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from attar.core.prompting import Child, Ground, Standing
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
    solved,
    told,
)
from attar.prompts.moves.brood import draw_parents
from attar.prompts.writing.answers import Rules
from attar.settings import Settings

WANTED = (
    "The instruction must be different from all above and better. It must fit any text: do not solve the task and do "
    "not repeat the examples. Write only the instruction."
)
HINTS = (
    "Be short and plain.",
    "Say what decides between the answers.",
    "Say in a few words what each answer means.",
    "Say who the assistant is and what it looks at.",
    "Say what a careless reader would get wrong.",
)
"""One of them is drawn for each request, so that equal requests do not bring equal answers."""


class InstructionSettings(Settings):
    """Set what a writer is shown when it proposes instructions."""

    examples: int = Field(4, ge=0, le=32, description="solved examples shown, or failures where gold is not used")
    history: int = Field(4, ge=0, le=32, description="instructions shown with their scores")
    characters: int = Field(300, ge=20, description="of an example that are shown")
    most_characters: int = Field(600, ge=20, description="of an instruction; a longer one is refused")


class Instructions:
    """Propose instructions through a writer (`attar.core.prompting.Move`).

    Reference:
        Yang et al., "Large Language Models as Optimizers", ICLR 2024, section 3 (the history with scores, the best
        last); Zhou et al., "Large Language Models Are Human-Level Prompt Engineers", ICLR 2023, section 3.1.
    """

    Settings = InstructionSettings
    needs: ClassVar[frozenset[str]] = frozenset({"writer"})

    def __init__(self, settings: InstructionSettings | None = None) -> None:
        self.settings = settings or InstructionSettings()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts with new instructions.

        Raises:
            AttarError: there is no writer.
        """
        return ask(ground, count, "instructions", partial(self._request, ground))

    def _request(self, ground: Ground) -> Request | None:
        for parent in draw_parents(ground):
            hint = HINTS[int(ground.random.integers(len(HINTS)))]
            examples, seen = self._examples(ground, parent)
            task = f"the task: {ground.task}" if ground.task else "its task."
            first = f"Write one new instruction that tells an assistant how to do {task}"
            asked = " ".join(part for part in (first, choices(parent.prompt), WANTED, hint) if part)
            text = paragraphs(examples, self._history(ground), asked, "Instruction:")
            rules = Rules(
                most_characters=self.settings.most_characters,
                shown=(*seen, WANTED, *HINTS),
                old=old_instructions(ground),
                about=about(ground, parent.prompt),
            )
            make = partial(instructed, parent.prompt)
            return Request(text, (parent,), make, "new instruction", "told", rules)
        return None

    def _examples(self, ground: Ground, parent: Standing) -> tuple[str, tuple[str, ...]]:
        """Return examples as the writer reads them, and the texts that it must not repeat."""
        size, characters = self.settings.examples, self.settings.characters
        if ground.pool:
            places = ground.random.choice(len(ground.pool), min(size, len(ground.pool)), replace=False)
            shown = [ground.pool[int(place)] for place in places]
            text, seen = solved(parent.prompt, shown, characters), [text for text, _ in shown]
        else:
            failures = parent.failures[:size]
            text, seen = failed(failures, characters), [failure.text for failure in failures]
        return (f"Examples:\n\n{text}" if text else ""), tuple(short(one, characters) for one in seen)

    def _history(self, ground: Ground) -> str:
        """Return the best instructions with their scores, the best last: what is read last weighs most."""
        best: dict[str, float] = {}
        for standing in ground.standings:
            if standing.prompt.instruction:
                best.setdefault(told(standing.prompt), standing.value)
        rows = list(best.items())[: self.settings.history][::-1]
        lines = "\n".join(f"{value:.3f}: {' '.join(text.split())}" for text, value in rows)
        return f"Instructions that were tried, each after its score (higher is better):\n{lines}" if lines else ""
