"""Advise on what was proved: a test set too small for the difference, a loss by export, a prompt's gain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.advice_parts import CLEAR, Advice, all_known
from attar.report.advice_teacher import teacher_alike
from attar.report.facts import estimate, final_model, mapping, mappings, metric_name, model_named, number, text
from attar.report.formats import is_share, metric_text, number_text, percent_text, points_text

MOST_TIMES = 25.0
MOST_NEEDED = 20_000
"""What test set is asked for at most: as many times the examples there are, or so many."""

ALIKE = 0.02
"""Two models are as good as equal where the whole interval of their difference lies within ± this."""


@dataclass(frozen=True)
class _Open:
    """Hold an open verdict: its numbers, and how many examples would settle it (None: too many)."""

    numbers: Mapping[str, float]
    said: str
    needed: float | None


def _open(summary: Mapping[str, Any]) -> _Open | None:
    verdict = mapping(summary.get("verdict"))
    known = all_known(*(number(verdict.get(key)) for key in ("difference", "low", "high", "n")))
    if text(verdict.get("result")) != "INCONCLUSIVE" or known is None or known[3] <= 0:
        return None
    difference, low, high, n = known
    times = ((high - low) / 2 / abs(difference)) ** 2 if difference else math.inf
    if times <= 1:  # a lopsided interval: the middle would not hold 0
        return None
    numbers = {"difference": difference, "low": low, "high": high, "n": n}
    needed = _examples(times * n) if times <= MOST_TIMES or times * n <= MOST_NEEDED else None
    return _Open(numbers, points_text(difference, low, high, metric_name(summary)), needed)


def _examples(count: float) -> float:
    return float(f"{count:.2g}")


def small_test(summary: Mapping[str, Any]) -> Advice | None:
    """Advise how many test examples would settle an open verdict: an interval shrinks with the root of their number."""
    seen = _open(summary)
    if seen is None:
        return None
    n, half = seen.numbers["n"], (seen.numbers["high"] - seen.numbers["low"]) / 2
    if seen.needed is not None:
        words = (
            f"The interval of student over control is wider than the difference ({seen.said}). If it is as large as it "
            f"looks, about {number_text(seen.needed)} test examples would show it; there are {number_text(n)}."
        )
        return Advice(words, {**seen.numbers, "needed": seen.needed})
    if _alike(seen) or not is_share(metric_name(summary)):
        return None
    needed = _examples(n * (half / ALIKE) ** 2)
    words = (
        f"{number_text(n)} test examples cannot tell student and control apart ({seen.said}); about "
        f"{number_text(needed)} would bring the interval down to ±{100 * ALIKE:.0f} points."
    )
    return Advice(words, {**seen.numbers, "needed": needed})


def _alike(seen: _Open) -> bool:
    return max(abs(seen.numbers["low"]), abs(seen.numbers["high"])) <= ALIKE


def no_difference(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where student and control are as good as equal, and no reasonable test set would tell them apart."""
    seen = _open(summary)
    if seen is None or seen.needed is not None or not _alike(seen) or not is_share(metric_name(summary)):
        return None
    if teacher_alike(summary):
        return None
    words = (
        f"Student and control are as good as equal ({seen.said}, n = {number_text(seen.numbers['n'])}). Change what is "
        "taught (another objective, more unlabelled examples) rather than the test."
    )
    return Advice(words, seen.numbers)


def export(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where compression and export cost more than chance would, given how often both models disagree."""
    student, final = model_named(summary, "student"), final_model(summary)
    checks = {text(check.get("name")): number(check.get("value")) for check in mappings(summary.get("checks"))}
    if student is None or final is None or final.name == "student":
        return None
    agreed = checks.get(f"{final.name} agrees with the PyTorch model")
    known = all_known(student.quality.value, final.quality.value, agreed, final.quality.n)
    if known is None or known[3] <= 0:
        return None
    trimmed = checks.get("compressed agrees with the student")
    cost, apart = known[0] - known[1], (1 - known[2]) + (0.0 if trimmed is None else 1 - trimmed)
    if cost <= CLEAR * math.sqrt(max(0.0, apart) / known[3]):
        return None
    steps = ", ".join(dict.fromkeys(text(entry.get("step")) for entry in mappings(summary.get("compress"))))
    metric = metric_name(summary)
    words = (
        f"Compression and export cost {points_text(cost, None, None, metric).removeprefix('+')} "
        f"({metric_text(known[0], metric)} to {metric_text(known[1], metric)}; they disagree on "
        f"{'at most ' if trimmed else ''}{percent_text(apart)} of the test examples). Try it without one of its steps"
        f"{f' ({steps})' if steps else ''}."
    )
    return Advice(words, {"student": known[0], "final": known[1], "agreement": 1 - apart, "n": known[3]})


def prompt_race(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where the prompt that won on validation is worse than the recipe's own on test."""
    teacher = mapping(mapping(summary.get("prompt")).get("teacher"))
    before, after = mapping(teacher.get("before")), mapping(teacher.get("after"))
    winner = next((entry for entry in mappings(teacher.get("tried")) if entry.get("left") == "won"), after)
    own, won = estimate(before.get("quality")), estimate(after.get("quality"))
    known = all_known(own.value, won.value, number(winner.get("n")))
    if known is None or known[1] >= known[0]:
        return None
    metric = metric_name(summary)
    why = "the race was decided by chance"
    if teacher.get("kept") and mapping(teacher.get("gain")):
        why = "validation examples may be of another kind, or its gain on those held out was luck (1 search in 40)"
    words = (
        f"The prompt that won on {number_text(known[2])} validation examples gets {metric_text(known[1], metric)} on "
        f"test, the recipe's own {metric_text(known[0], metric)}: {why}. Give it more validation examples."
    )
    return Advice(words, {"before": known[0], "after": known[1], "n": known[2]})


def prompt_unproven(summary: Mapping[str, Any]) -> Advice | None:
    """Advise how many held-out examples would prove a gain of the size that was seen and not proven."""
    teacher = mapping(mapping(summary.get("prompt")).get("teacher"))
    gain = mapping(teacher.get("gain"))
    known = all_known(*(number(gain.get(key)) for key in ("value", "low", "high", "n")))
    if known is None or teacher.get("kept") is not False or known[0] <= 0 or known[1] > 0:
        return None
    value, low, high, n = known
    times = ((high - low) / 2 / value) ** 2
    if times > MOST_TIMES:
        return None
    needed, criterion = _examples(times * n), text(teacher.get("criterion")) or metric_name(summary)
    unit = "" if is_share(criterion) else "nats"
    words = (
        f"A better prompt may be there: the winner's gain is {points_text(value, low, high, criterion, unit)} on "
        f"{number_text(n)} held-out examples. If it is as large as it looks, about {number_text(needed)} would "
        "show it. Raise data.validation or prompt.teacher.held_out."
    )
    return Advice(words, {"value": value, "low": low, "high": high, "n": n, "needed": needed})
