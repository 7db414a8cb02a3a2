"""Suggest what was meant when a name is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 8  # names in a message; a folder of thousands must not fill the screen


def near(name: str, choices: Iterable[str], what: str = "It holds") -> str:
    """Return the end of a sentence: the nearest name, or a few of those that are there.

    Args:
        name: what was given.
        choices: every name that would have been right.
        what: the subject of the list, for example ``"The columns are"``.

    Example:
        >>> near("reveiw", ["review", "stars"])
        " Did you mean 'review'?"
        >>> near("x", ["review", "stars"], "The columns are")
        ' The columns are: review, stars.'
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    if not known:
        return ""
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f" {what}: {', '.join(known[:SHOWN])}{more}."
