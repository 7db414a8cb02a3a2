"""Tell where prompts came from: how the winner was made, and the tree of all that had children."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.facts import estimate, items, mappings, text
from attar.report.formats import number_text
from attar.report.prompts import criterion, how_made, teacher_search, winner_name, won

DEEPEST = 8
"""Steps that a line of descent is indented at most, so that a phone shows the last ones."""


def made_line(search: Mapping[str, Any]) -> str:
    """Say of what the winner was made, step by step; empty where it was there from the beginning.

    Example:
        >>> tried = [{"name": "a", "how": "bank"}, {"name": "a+2", "how": "2 shown", "parents": ["a"], "left": "won"}]
        >>> made_line({"tried": tried})
        'The winner was made of “a”: 2 shown.'
    """
    entries = {text(entry.get("name")): entry for entry in mappings(search.get("tried"))}
    name, steps, seen = winner_name(search), list[str](), set[str]()
    while name in entries and name not in seen:
        seen.add(name)
        parents = [text(parent) for parent in items(entries[name].get("parents"))]
        if not parents:
            break
        with_whom = f" with “{'”, “'.join(parents[1:])}”" if parents[1:] else ""
        steps.append(f"{text(entries[name].get('how')) or 'changed'}{with_whom}")
        name = parents[0]
    return f"The winner was made of “{name}”: {'; then '.join(reversed(steps))}." if steps else ""


@dataclass(frozen=True)
class Line:
    """Hold a prompt in the tree of descent.

    Args:
        depth: steps from the prompt that the tree begins with.
        name: of the prompt.
        how: it was made, with its other parents.
        score: with its interval.
        won: it won the race.
    """

    depth: int
    name: str
    how: str
    score: str
    won: bool


def lineage(summary: Mapping[str, Any]) -> list[Line]:
    """Return the prompts that others were made of, each followed by its children; empty where none had any.

    A prompt of several parents stands below the first one.
    """
    entries = {text(entry.get("name")): entry for entry in mappings(teacher_search(summary).get("tried"))}
    below: dict[str, list[str]] = {}
    for name, entry in entries.items():
        below.setdefault(next((text(p) for p in items(entry.get("parents"))), ""), []).append(name)
    roots = [name for parent, names in below.items() if parent not in entries for name in names if name in below]
    found, waiting, seen = list[Line](), [(name, 0) for name in reversed(roots)], set[str]()
    while waiting:
        name, depth = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found.append(_line(entries[name], depth, criterion(summary)))
        waiting += [(child, min(depth + 1, DEEPEST)) for child in reversed(below.get(name, []))]
    return found


def _line(entry: Mapping[str, Any], depth: int, metric: str) -> Line:
    others = [text(parent) for parent in items(entry.get("parents"))][1:]
    how = how_made(entry) + (f" (with {', '.join(others)})" if others else "")
    score = estimate({**entry, "value": entry.get("score")})
    n = "" if score.n is None else f", n = {number_text(score.n)}"
    return Line(depth, text(entry.get("name")), how, f"{score.show(metric)}{n}", won(entry))
