"""Hold what rules of advice share: the advice itself, and numbers that must all be known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.facts import Estimate, metric_name, model_named
from attar.report.formats import metric_text

CLEAR = 1.96
"""Standard errors of a difference that is taken to be real."""


@dataclass(frozen=True)
class Advice:
    """Hold one thing to try, with the numbers that it rests on.

    Args:
        text: one or two sentences: what was seen, what to try.
        numbers: name -> value, those of the summary and what was computed from them.
    """

    text: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Qualities:
    """Hold the qualities that a verdict is about, and the metric they are in."""

    teacher: Estimate
    control: Estimate
    student: Estimate
    metric: str

    def say(self, value: float | None) -> str:
        """Return a quality for people."""
        return metric_text(value, self.metric)


def qualities(summary: Mapping[str, Any]) -> Qualities | None:
    """Return the qualities of teacher, control and student, if all are known."""
    teacher, control, student = (model_named(summary, name) for name in ("teacher", "control", "student"))
    if teacher is None or control is None or student is None:
        return None
    found = (teacher.quality, control.quality, student.quality)
    return None if any(one.value is None for one in found) else Qualities(*found, metric_name(summary))


def all_known(*values: float | None) -> list[float] | None:
    """Return the values if all are known."""
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else None
