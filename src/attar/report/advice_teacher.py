"""Advise on the teacher's lead over the control: whether there is one, and how much of it the student took over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.advice_parts import Advice, all_known, qualities
from attar.report.facts import mapping, metric_name, model_named, number, ratio, text, writes
from attar.report.formats import count_text, number_text, percent_text, points_text, times_text

GAP_RATIO = 10.0
"""Parameters of the teacher over those of the student from which capacity is taken to be what limits."""

RECOVERED = 0.5
"""Share of the teacher's lead over the control, below which the student has not learned enough of it."""


def teacher_worse(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where the teacher is worse than the control, its whole interval."""
    seen = qualities(summary)
    if seen is None or (known := all_known(seen.teacher.value, seen.teacher.high, seen.control.value)) is None:
        return None
    teacher, high, control = known
    if high >= control:
        return None
    gold = text(summary.get("control_learns_from")) == "gold labels"
    remedy = (
        "Give the gold labels more weight (a cross_entropy term in distill.objective), or take a better teacher."
        if gold
        else "The student has nothing left to learn from it: take a better teacher, or gold labels."
    )
    words = f"The teacher ({seen.say(teacher)}) is worse than the control ({seen.say(control)}). {remedy}"
    return Advice(words, {"teacher": teacher, "teacher_high": high, "control": control})


def teacher_alike(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where the student does not beat a control that is as good as the teacher."""
    seen = qualities(summary)
    result = text(mapping(summary.get("verdict")).get("result"))
    if seen is None or result not in ("NO BEATS", "INCONCLUSIVE"):
        return None
    known = all_known(seen.teacher.value, seen.teacher.low, seen.teacher.high, seen.control.value)
    if known is None or not known[1] <= known[3] <= known[2]:
        return None
    teacher, low, high, control = known
    taught = "gold texts" if writes(summary) else "labels"
    words = (
        f"The control ({seen.say(control)}) lies inside the teacher's interval "
        f"({seen.teacher.show(seen.metric)}), so there is little to distill: the {taught} suffice for this student. A "
        "better teacher would change that."
    )
    return Advice(words, {"teacher": teacher, "teacher_low": low, "teacher_high": high, "control": control})


@dataclass(frozen=True)
class _Gap:
    lead: float
    recovered: float
    times: float
    parameters: float


def _gap(summary: Mapping[str, Any]) -> _Gap | None:
    """Return the gap that the student left open, if the teacher leads for sure and less than half was recovered."""
    seen = qualities(summary)
    teacher, student = model_named(summary, "teacher"), model_named(summary, "student")
    if seen is None or teacher is None or student is None:
        return None
    times = ratio(teacher.get("parameters"), student.get("parameters"))
    known = all_known(seen.teacher.value, seen.teacher.low, seen.control.value, seen.student.value, times)
    if known is None or known[1] <= known[2]:
        return None
    lead = known[0] - known[2]
    recovered = (known[3] - known[2]) / lead
    middle = math.sqrt((teacher.get("parameters") or 0) * (student.get("parameters") or 0))
    return _Gap(lead, recovered, known[4], middle) if recovered < RECOVERED else None


def _recovered(gap: _Gap, metric: str) -> str:
    lead = points_text(gap.lead, None, None, metric).removeprefix("+")
    share = percent_text(gap.recovered) if gap.recovered > 0 else "nothing"
    return f"The teacher leads the control by {lead} and the student recovered {share} of it"


def capacity(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where a much smaller student did not recover the lead of its teacher."""
    gap = _gap(summary)
    if gap is None or gap.times <= GAP_RATIO:
        return None
    words = (
        f"{_recovered(gap, metric_name(summary))}, with {times_text(gap.times)} times fewer parameters. Try an "
        f"assistant of about {count_text(gap.parameters)} parameters between the two (Mirzadeh et al. 2020), or a "
        "temperature of 2.5 to 4, which was best for the smallest students of Hinton et al. 2015."
    )
    numbers = {"lead": gap.lead, "recovered": gap.recovered, "times": gap.times, "assistant": gap.parameters}
    return Advice(words, numbers)


def more_data(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where a student of like size did not recover the lead of its teacher."""
    gap, train = _gap(summary), number(mapping(summary.get("examples")).get("train"))
    if gap is None or gap.times > GAP_RATIO or train is None:
        return None
    words = (
        f"{_recovered(gap, metric_name(summary))}, with only {times_text(gap.times)} times fewer parameters: its size "
        f"is hardly the limit. Let the teacher label more than these {number_text(train)} examples, or train longer."
    )
    return Advice(words, {"lead": gap.lead, "recovered": gap.recovered, "times": gap.times, "train": train})
