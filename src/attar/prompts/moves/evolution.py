"""Cross two prompts and mutate the child's demonstrations, without a writer."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from attar.core.prompt import Shown, TextPrompt
from attar.core.prompting import Child, Ground
from attar.prompts.moves.brood import Brood, child_name, root
from attar.prompts.moves.demonstrations import Draw, reordered
from attar.prompts.moves.pieces import join, sentences
from attar.settings import Settings


class Evolution:
    """Make a child of two prompts: instruction of the one, template of the other, demonstrations of both.

    Instructions are mixed sentence by sentence: the first of the one, then the last of the other. Of the union of
    the parents' demonstrations the child shows as many as they do on average. Then one demonstration is added, one is
    dropped, or all are shuffled, each in a third of the cases.

    Args:
        settings: see `Evolution.Settings`.

    Reference:
        Zehle et al., "CAPO: Cost-Aware Prompt Optimization", AutoML 2025 (crossover and mutation); there a
        language model writes the merged instruction.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    class Settings(Settings):
        """Set which examples are added."""

        characters: int = Field(300, ge=1, description="of the longest example that is added")

    def __init__(self, settings: Evolution.Settings) -> None:
        self.settings = settings

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts crossed and mutated (`attar.core.prompting.Move`)."""
        brood = Brood(ground, count)
        draw = Draw(ground, self.settings.characters)
        for parents in brood.parents(together=2):
            pair = [parents[int(i)].prompt for i in ground.random.permutation(len(parents))]
            told, asked = pair[0], pair[-1]
            instruction = mixed_instruction(told.instruction, asked.instruction, float(ground.random.random()))
            shown, how = _mutated(_crossed_demonstrations(ground, told, asked), ground, draw)
            child = replace(asked, instruction=instruction, demonstrations=shown)
            if told is not asked:
                how = f"crossed; {how}"
            if _options(child) in {_options(told), _options(asked)}:
                brood.add(replace(child, name=_name(told, asked, len(shown))), how, *parents)
        return brood.children


def mixed_instruction(first: str, last: str, share: float) -> str:
    """Return the beginning of one instruction and then the end of another, cut between sentences.

    Args:
        first: gives its first sentences.
        last: gives its last sentences, without those that are there already; where it is empty, all is the first's.
        share: of the sentences that the first gives, 0 to 1.

    Example:
        >>> mixed_instruction("Read it. Be brief.", "You are a critic. Judge the mood.", 0.5)
        'Read it. Judge the mood.'
    """
    if not first or not last:
        return first or last
    head, tail = sentences(first), sentences(last)
    kept = head[: round(share * len(head))]
    known = {piece.body for piece in kept}
    kept += [piece for piece in tail[round(share * len(tail)) :] if piece.body not in known]
    return join([piece._replace(lead=piece.lead or " ") for piece in kept]).strip()


def _crossed_demonstrations(ground: Ground, told: TextPrompt, asked: TextPrompt) -> Shown:
    """Return a sample of both prompts' demonstrations in the order they stand, so that siblings begin alike."""
    union = list(dict([*told.demonstrations, *asked.demonstrations]).items())
    both = len(told.demonstrations) + len(asked.demonstrations)
    wanted = min((both + int(ground.random.integers(2))) // 2, len(union), ground.most_demonstrations)
    places = sorted(ground.random.choice(len(union), wanted, replace=False).tolist()) if union else []
    return tuple(union[place] for place in places)


def _mutated(shown: Shown, ground: Ground, draw: Draw) -> tuple[Shown, str]:
    chance = int(ground.random.integers(3))
    if chance == 0 and len(shown) < ground.most_demonstrations:
        new = draw(shown)
        if new is not None:
            return (*shown, new), "demonstration added"
    elif chance == 1 and shown:
        place = int(ground.random.integers(len(shown)))
        return shown[:place] + shown[place + 1 :], "demonstration dropped"
    elif chance == 2 and len(shown) > 1:
        return reordered(shown, ground.random), "demonstrations shuffled"
    return shown, "demonstrations sampled" if shown else "no demonstrations"


def _options(prompt: TextPrompt) -> int:
    """Return how often the model is told the options."""
    return (prompt.instruction + prompt.template).count("{options}")


def _name(told: TextPrompt, asked: TextPrompt, demonstrations: int) -> str:
    if told is asked:
        return child_name(told.name, "mut", demonstrations)
    roots = [root(prompt.name).split("×") for prompt in (told, asked)]
    return child_name("×".join(dict.fromkeys((roots[0][0], roots[1][-1]))), "", demonstrations)
