"""Let a writer say the instruction, or one phrase of the prompt, in other words."""

from __future__ import annotations

import re
from functools import partial
from typing import ClassVar

from pydantic import Field

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground, Standing
from attar.prompts.moves.asking import Request, about, ask, instructed, old_instructions, paragraphs, told
from attar.prompts.moves.brood import draw_parents
from attar.prompts.moves.pieces import PARTS, Part, phrases, rewritten, text_of
from attar.prompts.writing.answers import Rules
from attar.settings import Settings

WHOLE = "Say this instruction in other words. It must mean the same. Write only the new instruction."
PHRASE = "Say this phrase in other words. It must mean the same and be about as long. Write only the new phrase."

_END = re.compile(r"[\s.,;:!?]*$")


class ParaphraseSettings(Settings):
    """Set how prompts are paraphrased."""

    whole: float = Field(0.5, ge=0, le=1, description="share of the requests about the whole instruction")
    longest: int = Field(8, ge=2, le=32, description="words of a phrase at most")
    most_characters: int = Field(600, ge=20, description="of a new instruction; a longer one is refused")


class Paraphrase:
    """Paraphrase the instruction or one phrase through a writer (`attar.core.prompting.Move`).

    A phrase may stand in the template, too, but the places of the example and of the options stay.

    Reference:
        Prasad et al., "GrIPS: Gradient-free, Edit-based Instruction Search for Prompting Large Language Models",
        EACL 2023, section 3 (the edit "paraphrase"; here phrases end at punctuation, not by a parser).
    """

    Settings = ParaphraseSettings
    needs: ClassVar[frozenset[str]] = frozenset({"writer"})

    def __init__(self, settings: ParaphraseSettings | None = None) -> None:
        self.settings = settings or ParaphraseSettings()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` paraphrased prompts.

        Raises:
            AttarError: there is no writer.
        """
        return ask(ground, count, "paraphrase", partial(self._request, ground))

    def _request(self, ground: Ground) -> Request | None:
        for parent in draw_parents(ground):
            whole = ground.random.random() < self.settings.whole and parent.prompt.instruction
            return self._whole(ground, parent) if whole else self._phrase(ground, parent)
        return None

    def _whole(self, ground: Ground, parent: Standing) -> Request:
        text = paragraphs(WHOLE, f"Instruction: {told(parent.prompt)}", "New instruction:")
        rules = Rules(
            most_characters=self.settings.most_characters,
            shown=(WHOLE,),
            old=old_instructions(ground),
            about=about(ground, parent.prompt),
        )
        return Request(text, (parent,), partial(instructed, parent.prompt), "paraphrased", "reworded", rules)

    def _phrase(self, ground: Ground, parent: Standing) -> Request | None:
        found = [
            (part, place, piece.body)
            for part in PARTS
            for place, piece in enumerate(phrases(text_of(parent.prompt, part), self.settings.longest))
            if not piece.fixed and len(piece.body.split()) > 1
        ]
        if not found:
            return None
        part, place, body = found[int(ground.random.integers(len(found)))]
        text = paragraphs(PHRASE, f"Phrase: {body}", "New phrase:")
        rules = Rules(fewest_words=1, most_characters=2 * len(body) + 20, shown=(PHRASE,), old=(body,))
        make = partial(self._reworded, parent.prompt, part, place)
        return Request(text, (parent,), make, f"paraphrased '{body}'", "reworded", rules)

    def _reworded(self, prompt: TextPrompt, part: Part, place: int, said: str) -> TextPrompt:
        pieces = phrases(text_of(prompt, part), self.settings.longest)
        pieces[place] = pieces[place]._replace(body=as_in(pieces[place].body, said))
        return rewritten(prompt, part, pieces)


def as_in(old: str, new: str) -> str:
    """Return a phrase on one line that begins and ends as another: capital or small, with its marks.

    Example:
        >>> as_in("then judge it:", "Afterwards, give a verdict.")
        'afterwards, give a verdict:'
    """
    plain = " ".join(_END.sub("", new).split())
    first = plain[:1].upper() if old[:1].isupper() else plain[:1].lower()
    return first + plain[1:] + old[len(_END.sub("", old)) :]
