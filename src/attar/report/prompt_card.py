"""Write what a search for a prompt found as Markdown: the outcome, the prompt, what changed, all that were tried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attar.report.card import markdown_escape, markdown_table
from attar.report.facts import text
from attar.report.lineage import lineage, made_line
from attar.report.prompts import criterion, gain_line, left_out_line, outcome_line, prompt_cells, search_cost

_COLUMNS = ("name", "how", "words", "left", "score", "n", "tokens")


def prompt_card(search: Mapping[str, Any], name: str) -> str:
    """Return a page on the prompt that was found.

    Args:
        search: what the search left, with ``text`` (the prompt that is used) and ``diff`` (from the recipe's own).
        name: of the run.

    Example:
        >>> print(prompt_card({"text": "{text} is"}, "reviews").splitlines()[0])
        # The prompt of reviews
    """
    summary = {"prompt": {"teacher": search}}
    lines = (outcome_line(summary), gain_line(search, criterion(summary)), made_line(search))
    said = [markdown_escape(line) for line in lines if line]
    parts = [
        f"# The prompt of {markdown_escape(name)}",
        *([f"**{said[0]}**", *said[1:]] if said else []),
        fenced(text(search.get("text")), "text"),
        _part("What changed", fenced(text(search.get("diff")), "diff")),
        _part("Prompts tried", _tried(summary)),
        _part("What was made of what", _tree(summary)),
        markdown_escape(" ".join(line for line in (search_cost(search), left_out_line(search)) if line)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def fenced(words: str, language: str) -> str:
    """Return text as a block of code, whatever marks are in it; nothing for no text."""
    longest = max((len(run) for run in re.findall("`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{words}\n{fence}" if words else ""


def _part(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _tried(summary: Mapping[str, Any]) -> str:
    rows = [[cells[key] for key in _COLUMNS] for cells in prompt_cells(summary)]
    table = markdown_table(["prompt", *_COLUMNS[1:]], rows, 3) if rows else ""
    by = criterion(summary)
    note = "Scores on different n are not comparable, and the best of many is on average too good."
    return f"By {markdown_escape(by)}. {note}\n\n{table}" if table and by else table


def _tree(summary: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{'  ' * line.depth}- {'**' if line.won else ''}{markdown_escape(line.name)}{'**' if line.won else ''}: "
        f"{markdown_escape(line.how)}, {markdown_escape(line.score)}"
        for line in lineage(summary)
    )
