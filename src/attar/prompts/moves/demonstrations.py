"""Search for demonstrations: add, drop, replace or reorder one solved example of a prompt that stands well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from attar.core.prompt import Shown, TextPrompt
from attar.core.prompting import Child, Ground
from attar.prompts.moves.brood import Brood, child_name
from attar.settings import Settings

Solved = tuple[str, int | str]


class Draw:
    """Draw solved examples: short ones rather than long ones, and of the labels that are shown least.

    Args:
        ground: its pool is drawn from, and its random numbers are used.
        characters: of the longest example, its answer included.
    """

    def __init__(self, ground: Ground, characters: int) -> None:
        self._random = ground.random
        self._groups: dict[int | None, list[Solved]] = {}
        for text, answer in dict(ground.pool).items():  # a text that comes twice is shown once
            length = len(text) + (len(answer) if isinstance(answer, str) else 0)
            if length <= characters:
                self._groups.setdefault(_label(answer), []).append((text, answer))

    def __call__(self, shown: Sequence[Solved], avoid: Sequence[Solved] = ()) -> Solved | None:
        """Return an example to show after those shown; None where the pool has no more.

        Args:
            shown: examples that the prompt shows already: their labels count.
            avoid: further examples that are not to be drawn.
        """
        counts = Counter(_label(answer) for _, answer in shown)
        used = {text for text, _ in (*shown, *avoid)}
        labels = list(self._groups)
        turns = sorted(self._random.permutation(len(labels)).tolist(), key=lambda place: counts[labels[place]])
        for place in turns:
            left = [solved for solved in self._groups[labels[place]] if solved[0] not in used]
            if left:
                two = self._random.integers(0, len(left), 2)
                return min((left[int(i)] for i in two), key=lambda solved: len(solved[0]))
        return None

    def several(self, wanted: int) -> Shown:
        """Return the beginning of a prompt's demonstrations, each label in turn; fewer where the pool has fewer."""
        shown: list[Solved] = []
        while len(shown) < wanted and (solved := self(shown)) is not None:
            shown.append(solved)
        return tuple(shown)

    @property
    def labels(self) -> int:
        """Return how many labels the pool shows; 1 for tasks that write."""
        return len(self._groups)


class Demonstrations:
    """Change one demonstration of a prompt; give those that have none a first set, each label in turn.

    What is added, dropped or replaced stands near the end of the list, so that siblings begin alike and their keys
    and values are computed once. A new order may begin anywhere.

    Args:
        settings: see `Demonstrations.Settings`.

    Reference:
        Lu et al., "Fantastically Ordered Prompts and Where to Find Them", ACL 2022: order matters at every size, and
        a good order does not carry over to another model.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gold"})

    class Settings(Settings):
        """Set which examples are shown."""

        characters: int = Field(300, ge=1, description="of the longest example shown: its tokens are paid each time")

    def __init__(self, settings: Demonstrations.Settings) -> None:
        self.settings = settings

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts with other demonstrations (`attar.core.prompting.Move`)."""
        brood = Brood(ground, count)
        draw = Draw(ground, self.settings.characters)
        for (parent,) in brood.parents():
            prompt = parent.prompt
            found = _changed(ground, draw, prompt) if prompt.demonstrations else _first(ground, draw, brood, prompt)
            for shown, how in found:
                name = child_name(prompt.name, "", len(shown))
                brood.add(replace(prompt, demonstrations=shown, name=name), how, parent)
        return brood.children


def _first(ground: Ground, draw: Draw, brood: Brood, prompt: TextPrompt) -> list[tuple[Shown, str]]:
    """Return two first sets, about half the size and as many as may be: the smaller begins the larger."""
    most = ground.most_demonstrations
    shown = draw.several(most)
    while shown and not brood.fits(replace(prompt, demonstrations=shown)):
        shown = shown[:-1]
    half = min(most, max(draw.labels, most // 2))
    sets = dict.fromkeys(part for part in (shown[:half], shown) if part)
    return [(part, f"first {len(part)} demonstrations") for part in sets]


def _changed(ground: Ground, draw: Draw, prompt: TextPrompt) -> list[tuple[Shown, str]]:
    """Return the demonstrations with one change drawn at random; nothing where it cannot be made."""
    shown, random = prompt.demonstrations, ground.random
    changes = ["dropped", "replaced", *(["reordered"] if len(shown) > 1 else [])]
    if len(shown) < ground.most_demonstrations:
        changes.append("added")
    change = changes[int(random.integers(len(changes)))]
    if change == "reordered":
        return [(reordered(shown, random), "demonstrations reordered")]
    if change == "added":
        new = draw(shown)
        return [] if new is None else [((*shown, new), "demonstration added")]
    place = max(
        0, len(shown) - int(random.geometric(0.5))
    )  # the last in half of all draws, the one before in a quarter
    before, after = shown[:place], shown[place + 1 :]
    if change == "dropped":
        return [((*before, *after), f"demonstration {place + 1} of {len(shown)} dropped")]
    new = draw((*before, *after), avoid=(shown[place],))
    return [] if new is None else [((*before, new, *after), f"demonstration {place + 1} of {len(shown)} replaced")]


def reordered(shown: Shown, random: np.random.Generator) -> Shown:
    """Return the same demonstrations in another order, drawn at random; at least two are needed for another."""
    if len(shown) < 2:
        return shown
    order = tuple(shown[int(place)] for place in random.permutation(len(shown)))
    return order if order != shown else (*shown[1:], shown[0])


def _label(answer: int | str) -> int | None:
    """Return the label; None for an answer in words, so that all of these are of one kind."""
    return answer if isinstance(answer, int) else None
