"""Tell what a search for a prompt found: what was tried, what the winner gained, where it came from, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.facts import best_prompts, estimate, items, mapping, mappings, metric_name, number, text
from attar.report.formats import MISSING, is_share, ms_text, number_text, points_text, seconds_text

OWN = "recipe"
"""Name of the recipe's own prompt in the table."""
LEAST_P = 0.0001
"""Smaller p-values are not told apart."""


def teacher_search(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the search for the teacher's prompt left in a summary; empty where there was none."""
    return mapping(mapping(summary.get("prompt")).get("teacher"))


def student_search(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the race of the student's prompts left in a summary; empty where there was none."""
    return mapping(mapping(summary.get("prompt")).get("student"))


def criterion(summary: Mapping[str, Any]) -> str:
    """Return what the teacher's prompts were chosen by; their scores are written as its values.

    Example:
        >>> criterion({"prompt": {"teacher": {"criterion": "mean log-odds of the gold label on validation"}}})
        'mean log-odds of the gold label on validation'
    """
    return text(teacher_search(summary).get("criterion")) or metric_name(summary)


def criterion_word(summary: Mapping[str, Any]) -> str:
    """Return the criterion without where and how it was taken.

    Example:
        >>> criterion_word({"prompt": {"teacher": {"criterion": "agreement with the teacher, without gold labels"}}})
        'agreement with the teacher'
    """
    return criterion(summary).partition(",")[0].removesuffix(" on validation").replace("_", " ")


def prompt_text(entry: Mapping[str, Any]) -> str:
    """Return what a prompt says: as it was printed where that is known, else its parts."""
    if text(entry.get("text")):
        return text(entry.get("text"))
    words = ", ".join(text(word) for word in items(entry.get("words")))
    said = "\n\n".join(part for part in (text(entry.get("instruction")), text(entry.get("template"))) if part)
    return f"{said}\nwords: {words}" if said and words else said


def how_made(entry: Mapping[str, Any]) -> str:
    """Say how a prompt was made, and how it is read where it is calibrated.

    Example:
        >>> how_made({"how": "demonstration added", "calibration": "batch"})
        'demonstration added; batch calibration'
    """
    how, calibration = text(entry.get("how")), entry.get("calibration")
    read = f"{calibration} calibration" if isinstance(calibration, str) and calibration not in ("", "none") else ""
    return "; ".join(part for part in (how, read) if part)


def prompt_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the prompts tried on the teacher, every value written for people.

    Keys: name, how, words, score, n, tokens, left, text. The winner stands first, then who was scored on most.
    """
    metric = criterion(summary)
    return [
        {
            "name": text(entry.get("name")) or MISSING,
            "how": how_made(entry) or MISSING,
            "words": ", ".join(text(word) for word in items(entry.get("words"))) or MISSING,
            "score": estimate({**entry, "value": entry.get("score")}).show(metric),
            "n": number_text(number(entry.get("n"))),
            "tokens": number_text(number(entry.get("tokens"))),
            "left": text(entry.get("left")) or MISSING,
            "text": prompt_text(entry) or MISSING,
        }
        for entry in best_prompts(summary)
    ]


def student_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the prompts tried on the student, every value written for people.

    Keys: name, kind, score, n, tokens, ms, left, in the order of the summary.
    """
    metric = metric_name(summary)
    return [
        {
            "name": text(entry.get("name")) or MISSING,
            "kind": text(entry.get("kind")) or MISSING,
            "score": estimate({**entry, "value": entry.get("score")}).show(metric),
            "n": number_text(number(entry.get("n"))),
            "tokens": number_text(number(entry.get("tokens"))),
            "ms": ms_text(number(entry.get("ms"))),
            "left": text(entry.get("left")) or MISSING,
        }
        for entry in mappings(student_search(summary).get("tried"))
    ]


def result(search: Mapping[str, Any]) -> str:
    """Say in a word how a search ended: GAIN, NO GAIN or NOT PROVEN; empty where the summary does not tell.

    Example:
        >>> result({"kept": True, "why": "its gain is no luck", "gain": {"value": 0.03}}), result({})
        ('GAIN', '')
    """
    if "kept" not in search or not text(search.get("why")):
        return ""
    if not search.get("kept"):
        return "NO GAIN"
    return "GAIN" if mapping(search.get("gain")) else "NOT PROVEN"


def outcome_line(summary: Mapping[str, Any]) -> str:
    """Say which prompt the teacher uses after the search, and why; empty where the summary does not tell.

    Example:
        >>> search = {"kept": False, "why": "no gain: +0.010 on 80 held-out examples may be luck (p = 0.4)"}
        >>> print(outcome_line({"prompt": {"teacher": search}}))
        No gain: +0.010 on 80 held-out examples may be luck (p = 0.4). The recipe's own prompt is used.
    """
    search = teacher_search(summary)
    why, ended = text(search.get("why")).rstrip("."), result(search)
    if not ended:
        return ""
    if ended == "NO GAIN":
        return f"{why[:1].upper()}{why[1:]}. The recipe's own prompt is used."
    return f"{_used(search)}: {why}."


def _used(search: Mapping[str, Any]) -> str:
    winner = next((entry for entry in mappings(search.get("tried")) if won(entry)), {})
    if text(winner.get("name")) != OWN:
        return f"“{text(winner.get('name'))}” is used in place of the recipe's own prompt"
    calibration = text(winner.get("calibration"))
    other = "other label words" if calibration in ("", "none") else f"{calibration} calibration"
    return f"The recipe's own prompt is used with {other}"


def gain_line(search: Mapping[str, Any], metric: str, versus: str = "the recipe's own prompt") -> str:
    """Say what the winner gained on held-out examples, with its interval; empty where it was not judged.

    Example:
        >>> print(gain_line({"gain": {"value": 0.03, "low": 0.01, "high": 0.05, "n": 200, "p": 0.004}}, "accuracy"))
        The winner less the recipe's own prompt: +3.0 points [1.0, 5.0] on 200 held-out examples, p = 0.004.
    """
    gain = mapping(search.get("gain"))
    value, low, high, n, p = (number(gain.get(key)) for key in ("value", "low", "high", "n", "p"))
    if value is None:
        return ""
    said = points_text(value, low, high, metric, "" if is_share(metric) else "nats")
    on = "" if n is None else f" on {number_text(n)} held-out examples"
    sure = "" if p is None else f", p = {p:.2g}" if p >= LEAST_P else f", p < {LEAST_P}"
    return f"The winner less {versus}: {said}{on}{sure}."


def winner_name(search: Mapping[str, Any]) -> str:
    """Return the name of the prompt that won; empty where none did."""
    return next((text(entry.get("name")) for entry in mappings(search.get("tried")) if won(entry)), "")


def won(entry: Mapping[str, Any]) -> bool:
    """Tell whether a prompt won its race."""
    return entry.get("left") == "won"


def left_out_line(search: Mapping[str, Any]) -> str:
    """Say which moves made no prompts, and why; empty where all of them could.

    Example:
        >>> left_out_line({"left_out": {"instructions": "no model writes"}})
        'Left out: instructions (no model writes).'
    """
    said = [f"{text(move)} ({text(why)})" for move, why in mapping(search.get("left_out")).items()]
    return f"Left out: {', '.join(said)}." if said else ""


def search_cost(search: Mapping[str, Any]) -> str:
    """Say what a search cost; empty where nothing was counted.

    Example:
        >>> search_cost({"spent": {"seconds": 61.2, "tokens": 120000}, "tried": [{}, {}]})
        'The search tried 2 prompts: 1 min 1 s, 120,000 tokens.'
    """
    spent = mapping(search.get("spent"))
    seconds = number(spent.get("seconds"))
    parts = ["" if seconds is None else seconds_text(seconds)]
    for unit in ("tokens", "calls", "dollars"):
        amount = number(spent.get(unit))
        parts.append("" if amount is None else f"{number_text(amount)} {unit}")
    said, count = ", ".join(part for part in parts if part), len(mappings(search.get("tried")))
    return f"The search tried {count} prompt{'s' if count != 1 else ''}: {said}." if said else ""


def student_line(summary: Mapping[str, Any]) -> str:
    """Say whether the student keeps a prompt, and why; empty where the summary does not tell.

    Example:
        >>> student_line({"prompt": {"student": {"kept": False, "why": "a classifier with a head reads no prompt"}}})
        "The student's prompt was not kept: a classifier with a head reads no prompt."
    """
    search = student_search(summary)
    why = text(search.get("why")).rstrip(".").removeprefix("no gain: ")
    if "kept" not in search:
        return f"The student's prompt: {why}." if why else ""
    said = f"The student's prompt was {'kept' if search.get('kept') else 'not kept'}"
    return f"{said}: {why}." if why else f"{said}."
