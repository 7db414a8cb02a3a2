"""Collect the children of one call of a move: each is new, whole, within the limits, and has a name of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground, Standing

TRIES = 12
"""Parents drawn for each child that is wanted: where little is left to find, a move ends with fewer children."""


def draw_parents(ground: Ground, wanted: int = 1) -> list[Standing]:
    """Return different standings drawn by rank: of n, the best is n times as likely as the last. Best first.

    Fewer where fewer stand.
    """
    n = len(ground.standings)
    weights = [2 * (n - rank) / (n * (n + 1)) for rank in range(n)]
    places = ground.random.choice(n, size=min(wanted, n), replace=False, p=weights) if n else ()
    return [ground.standings[place] for place in sorted(int(place) for place in places)]


def root(name: str) -> str:
    """Return where a line of prompts began: a name without what `child_name` and `fresh_name` put behind it.

    Example:
        >>> root("statement~del.2+3"), root("statement.2")
        ('statement', 'statement')
    """
    return re.sub(r"(\.\d+)+$", "", name.partition("+")[0].partition("~")[0])


def child_name(parent: str, mark: str, demonstrations: int) -> str:
    """Return a short name: where the line began, the last edit of the text, the number of demonstrations.

    Args:
        parent: the parent's name.
        mark: what was done to the text; empty keeps the parent's mark.
        demonstrations: that the child shows.

    Example:
        >>> child_name("statement~del+2", "", 3), child_name("statement~del.2+3", "swap", 3)
        ('statement~del+3', 'statement~swap+3')
    """
    head = parent.partition("+")[0]
    if mark:
        head = f"{root(parent)}~{mark}"
    return f"{head}+{demonstrations}" if demonstrations else head


def fresh_name(wanted: str, taken: Collection[str]) -> str:
    """Return the wanted name, with a number where it is taken.

    Example:
        >>> fresh_name("statement+2", {"statement+2"})
        'statement+2.2'
    """
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}.{number}"
    return name


class Brood:
    """Hold the children of one call.

    Args:
        ground: of the call.
        count: children that are wanted at most.
    """

    def __init__(self, ground: Ground, count: int) -> None:
        self.children: list[Child] = []
        self._ground = ground
        self._count = count
        self._seen = {_identity(standing.prompt) for standing in ground.standings}
        self._names = {standing.prompt.name for standing in ground.standings}

    @property
    def full(self) -> bool:
        """Tell whether there are as many children as wanted."""
        return len(self.children) >= self._count

    def parents(self, together: int = 1) -> Iterator[list[Standing]]:
        """Yield parents, drawn by rank, until the brood is full or finding more is not likely."""
        for _ in range(TRIES * self._count):
            if self.full or not self._ground.standings:
                return
            yield draw_parents(self._ground, together)

    def fits(self, prompt: TextPrompt) -> bool:
        """Tell whether a prompt is within the limits of the call."""
        few = len(prompt.demonstrations) <= self._ground.most_demonstrations
        return few and self._ground.tokens(prompt) <= self._ground.most_tokens

    def add(self, prompt: TextPrompt, how: str, *parents: Standing) -> bool:
        """Take a child, unless it is known, broken or too long; tell whether it was taken.

        Args:
            prompt: with the name that it should have; a number is put behind it where that is taken. A calibration
                was its parent's, so it is dropped.
            how: what was done, for people.
            parents: what it was made of.
        """
        identity = _identity(prompt)
        if self.full or identity in self._seen or prompt.template.count("{text}") != 1 or not self.fits(prompt):
            return False
        named = replace(prompt, name=fresh_name(prompt.name, self._names), calibration=None)
        names = dict.fromkeys(parent.prompt.name for parent in parents)
        self._seen.add(identity)
        self._names.add(named.name)
        self.children.append(Child(named, tuple(names), how))
        return True


def _identity(prompt: TextPrompt) -> tuple[str, tuple[str, ...]]:
    return prompt.forward_id, prompt.words
