"""Say what to try next, from a run's own numbers; where they do not speak, say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attar.report.advice_compression import dense_better
from attar.report.advice_learning import calibration, lost_class, overfit, unfinished
from attar.report.advice_parts import Advice
from attar.report.advice_proof import export, no_difference, prompt_race, prompt_unproven, small_test
from attar.report.advice_teacher import capacity, more_data, teacher_alike, teacher_worse
from attar.report.facts import higher_is_better

__all__ = ["Advice", "advise"]

ON_QUALITY: tuple[Callable[[Mapping[str, Any]], Advice | None], ...] = (
    teacher_worse,
    teacher_alike,
    capacity,
    more_data,
    small_test,
    no_difference,
    export,
    dense_better,
    prompt_race,
    prompt_unproven,
)
ON_THE_REST: tuple[Callable[[Mapping[str, Any]], Advice | None], ...] = (
    lost_class,
    overfit,
    unfinished,
    calibration,
)


def advise(summary: Mapping[str, Any]) -> list[Advice]:
    """Return what a run's numbers suggest to try next, the most telling first; often nothing.

    Rules: the teacher is worse than the control, or no better; a lead of the teacher that a much smaller student
    did not recover (an assistant, a lower temperature), or a student of like size did not (more data); a difference
    that the test set is too small for, or that is none; losses by compression; a smaller model that was never cut and
    is better; a loss by a prompt race decided by chance; a prompt's gain that the held-out examples could not prove; a
    class that the student lost; overfitting; training that ended too early; calibration.

    Args:
        summary: a run's summary; a rule whose numbers are absent says nothing. Rules on quality need a metric of
            which more is better.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 3 (temperatures for
        small students, missing classes); Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant",
        AAAI 2020.

    Example:
        >>> advise({})
        []
        >>> verdict = {"result": "INCONCLUSIVE", "difference": 0.01, "low": -0.01, "high": 0.03, "n": 500}
        >>> advise({"verdict": verdict})[0].numbers["needed"]
        2000.0
    """
    rules = (*(ON_QUALITY if higher_is_better(summary) else ()), *ON_THE_REST)
    return [advice for rule in rules if (advice := rule(summary)) is not None]
