"""Say what a user did wrong in one form: what was given, the rule, what to do.

Every mistake a user can make ends in an `AttarError`; the command line prints it without a traceback and
exits with status 2. Anything else that escapes is a fault of attar and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class AttarError(Exception):
    """Report a user's mistake: the message says what was given, the rule and what to do.

    Example:
        >>> str(AttarError("temperature of forward_kl must be > 0, got -1."))
        'temperature of forward_kl must be > 0, got -1.'
    """

    exit_status = 2


@dataclass(frozen=True)
class Mistake:
    """Name one mistake of a recipe: its path in the file and the message.

    Example:
        >>> str(Mistake("student.layers", "must be > 0, got 0."))
        'student.layers: must be > 0, got 0.'
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class RecipeError(AttarError):
    """Report all mistakes of a recipe at once, each with its path in the file.

    Args:
        source: the recipe's file or name.
        mistakes: every mistake found; at least one.
    """

    def __init__(self, source: str, mistakes: Sequence[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        count = f"{len(self.mistakes)} mistake{'s' if len(self.mistakes) != 1 else ''}"
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        super().__init__(f"{source} has {count}:\n{lines}")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Suggest the nearest choices to a mistyped name, as the end of a sentence.

    Args:
        name: what was given.
        choices: every name that would have been right.

    Returns:
        ``" Did you mean 'x'?"`` when something is near, else the list of choices.

    Example:
        >>> did_you_mean("foward_kl", ["forward_kl", "cross_entropy"])
        " Did you mean 'forward_kl'?"
    """
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
