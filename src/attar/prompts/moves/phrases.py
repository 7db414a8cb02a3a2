"""Edit phrases of a prompt: delete one, swap two, or add one back that another prompt has."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground
from attar.prompts.moves.brood import Brood, child_name
from attar.prompts.moves.pieces import PARTS, Part, Piece, gaps, inserted, phrases, rewritten, text_of, without
from attar.settings import Settings

Edit = tuple[TextPrompt, str, str]


class Phrases:
    """Edit one phrase of the instruction or the template; the places of the example and the options stay.

    A phrase is some words up to punctuation, a line's end or a conjunction: no parser is needed. What an edit
    deleted can come back: any phrase of another standing prompt may be added.

    Args:
        settings: see `Phrases.Settings`.

    Reference:
        Prasad et al., "GrIPS: Gradient-free, Edit-based Instruction Search for Prompting Large Language Models",
        EACL 2023. Its fourth edit, the paraphrase, needs a writer and is a move of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    class Settings(Settings):
        """Set how phrases are cut."""

        longest: int = Field(4, ge=1, description="words of a phrase at most")

    def __init__(self, settings: Phrases.Settings) -> None:
        self.settings = settings

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts with one phrase edited (`attar.core.prompting.Move`)."""
        brood = Brood(ground, count)
        edits = (self._delete, self._swap, self._add_back)
        for (parent,) in brood.parents():
            edit = edits[int(ground.random.integers(len(edits)))](ground, parent.prompt)
            if edit is not None:
                prompt, mark, how = edit
                name = child_name(prompt.name, mark, len(prompt.demonstrations))
                brood.add(replace(prompt, name=name), how, parent)
        return brood.children

    def _delete(self, ground: Ground, prompt: TextPrompt) -> Edit | None:
        part, pieces, free = self._drawn(ground, prompt)
        if not free:
            return None
        place = free[int(ground.random.integers(len(free)))]
        return rewritten(prompt, part, without(pieces, place)), "del", f"'{pieces[place].body}' deleted"

    def _swap(self, ground: Ground, prompt: TextPrompt) -> Edit | None:
        part, pieces, free = self._drawn(ground, prompt)
        if len(free) < 2:
            return None
        i, j = sorted(free[int(k)] for k in ground.random.choice(len(free), 2, replace=False))
        first, second = pieces[i].body, pieces[j].body
        pieces[i], pieces[j] = pieces[i]._replace(body=second), pieces[j]._replace(body=first)
        return rewritten(prompt, part, pieces), "swap", f"'{first}' and '{second}' swapped"

    def _add_back(self, ground: Ground, prompt: TextPrompt) -> Edit | None:
        own = f"{prompt.instruction}\n{prompt.template}"
        others = [body for standing in ground.standings for body in self._bodies(standing.prompt)]
        known = [body for body in dict.fromkeys(others) if body not in own]
        part, pieces, _ = self._drawn(ground, prompt)
        if not known or not pieces:
            return None
        body = known[int(ground.random.integers(len(known)))]
        places = gaps(pieces)
        place = places[int(ground.random.integers(len(places)))]
        return rewritten(prompt, part, inserted(pieces, place, body)), "add", f"'{body}' added"

    def _drawn(self, ground: Ground, prompt: TextPrompt) -> tuple[Part, list[Piece], list[int]]:
        """Return the instruction or the template in pieces, and the places of those that may change.

        The part with more of them is drawn more often.
        """
        cut = {part: phrases(text_of(prompt, part), self.settings.longest) for part in PARTS}
        free = {part: [i for i, piece in enumerate(pieces) if not piece.fixed] for part, pieces in cut.items()}
        total = sum(len(places) for places in free.values())
        instructs = total > 0 and int(ground.random.integers(total)) < len(free["instruction"])
        part: Part = "instruction" if instructs else "template"
        return part, cut[part], free[part]

    def _bodies(self, prompt: TextPrompt) -> list[str]:
        found = [piece for part in PARTS for piece in phrases(text_of(prompt, part), self.settings.longest)]
        return [piece.body for piece in found if not piece.fixed]
