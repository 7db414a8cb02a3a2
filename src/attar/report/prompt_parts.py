"""Gather what the report's section on prompts shows: the outcome, the prompts as text, what changed, the tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.facts import estimate, items, mapping, mappings, metric_name, number, text
from attar.report.formats import MISSING, number_text
from attar.report.lineage import lineage, made_line
from attar.report.prompts import (
    criterion,
    gain_line,
    left_out_line,
    outcome_line,
    prompt_cells,
    prompt_text,
    result,
    search_cost,
    student_cells,
    student_line,
    student_search,
    teacher_search,
    won,
)

BADGES = {"GAIN": "beats", "NO GAIN": "open", "NOT PROVEN": "open"}
"""How a search ended -> the tone of its box."""


def prompt_section(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report tells of prompts; every part is empty where the summary lacks it."""
    search, student = teacher_search(summary), student_search(summary)
    ended = result(search)
    return {
        "result": ended,
        "tone": BADGES.get(ended, ""),
        "outcome": outcome_line(summary),
        "gain": gain_line(search, criterion(summary)),
        "made": made_line(search),
        "pair": _pair(summary),
        "diff": diff_lines(text(search.get("diff"))),
        "criterion": text(search.get("criterion")),
        "tried": prompt_cells(summary),
        "unscored": len(mappings(search.get("tried"))) - len(prompt_cells(summary)),
        "tree": lineage(summary),
        "left_out": left_out_line(search),
        "cost": search_cost(search),
        "student": student_line(summary),
        "student_gain": gain_line(student, metric_name(summary), "“none”"),
        "student_tried": student_cells(summary),
    }


def diff_lines(diff: str) -> list[tuple[str, str]]:
    r"""Return the lines of a unified diff with what each is: added, dropped, or nothing; without its head.

    Example:
        >>> diff_lines("--- a\n+++ b\n@@ -1 +1 @@\n-Mood:\n+Tone:\n ends")
        [('dropped', 'Mood:'), ('added', 'Tone:'), ('', 'ends')]
    """
    kinds = {"+": "added", "-": "dropped", " ": ""}
    body = [line for line in diff.split("\n")[2:] if line[:1] in kinds]
    return [(kinds[line[0]], line[1:]) for line in body]


def _pair(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the recipe's own prompt and the winner, which is another one, and perhaps not used."""
    search = teacher_search(summary)
    before, after = mapping(search.get("before")), mapping(search.get("after"))
    if result(search) != "NO GAIN":
        shown = [
            ("The teacher's prompt before the search", before),
            ("The teacher's prompt after the search", after),
        ]
    else:
        lost = next((entry for entry in mappings(search.get("tried")) if won(entry)), {})
        judged = mapping(search.get("gain"))
        shown = [("The teacher's prompt", before), ("The winner of the race, not used", lost if judged else {})]
    return [_prompt(title, entry, metric_name(summary)) for title, entry in shown if entry]


def _prompt(title: str, entry: Mapping[str, Any], metric: str) -> dict[str, Any]:
    quality = estimate(entry.get("quality"))
    bias = entry.get("calibration")
    known = [number_text(number(value)) for value in items(bias)]
    facts = {
        "test set": "" if quality.value is None else quality.show(metric),
        "chat template": ("yes" if entry.get("chat") else "no") if "chat" in entry else "",
        "demonstrations": _count(entry.get("demonstrations")),
        "tokens": number_text(number(entry.get("tokens"))) if "tokens" in entry else "",
        "calibration": ", ".join(known) if known else "" if bias in (None, "none") else text(bias),
    }
    return {
        "title": title,
        "name": text(entry.get("name")),
        "text": prompt_text(entry) or MISSING,
        "facts": {key: value for key, value in facts.items() if value},
    }


def _count(value: Any) -> str:
    count = number(value)
    return "" if count is None else number_text(count)
