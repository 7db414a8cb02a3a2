"""Advise on what was learned: too long, too short, without a class, or with probabilities that mislead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attar.report.advice_parts import CLEAR, Advice, all_known
from attar.report.facts import ModelFacts, final_model, items, mapping, mappings, model_named, number, text
from attar.report.formats import number_text, percent_text

LEAST_OF_CLASS = 20
LOST_RECALL = 0.1
ECE_TOO_HIGH = 0.05
RISEN = 1.05  # validation loss at the end over the lowest
STILL_RISING = 0.01


def overfit(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where validation loss rises while training loss falls."""
    looks = _looks(summary, "step", "validation_loss", "loss", "validation")
    train = number(mapping(summary.get("examples")).get("train"))
    if len(looks) < 3 or train is None:
        return None
    step, lowest, loss_then, right_then = min(looks, key=lambda one: one[1])
    _, last, loss_now, right_now = looks[-1]
    # more right answers with a higher loss is too much confidence, which is calibration's matter
    if last < RISEN * lowest or loss_now >= loss_then or right_now > right_then:
        return None
    words = (
        f"The student's validation loss was lowest at step {number_text(step)} ({number_text(lowest)}) and rose to "
        f"{number_text(last)} while its training loss went on falling: it learns these {number_text(train)} examples "
        "by heart. Let the teacher label more examples without labels, or train for fewer epochs."
    )
    return Advice(words, {"step": step, "lowest": lowest, "last": last, "train": train})


def unfinished(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where validation was still rising when training ended."""
    looks = _looks(summary, "step", "validation")
    if len(looks) < 3:
        return None
    before, last = max(value for _, value in looks[:-1]), looks[-1][1]
    if last - before < STILL_RISING:
        return None
    words = (
        f"Validation was still rising when training ended (best before {percent_text(before)}, then "
        f"{percent_text(last)} at step {number_text(looks[-1][0])}). Train for more epochs."
    )
    return Advice(words, {"before": before, "last": last, "step": looks[-1][0]})


def _looks(summary: Mapping[str, Any], *keys: str) -> list[list[float]]:
    """Return these values of the student's curve wherever all of them are known: where validation was looked at."""
    rows = mappings(mapping(summary.get("curves")).get("student"))
    found = [all_known(*(number(row.get(key)) for key in keys)) for row in rows]
    return [one for one in found if one is not None]


def lost_class(summary: Mapping[str, Any]) -> Advice | None:
    """Advise on the class that the student lost most of against its teacher."""
    teacher, student = model_named(summary, "teacher"), model_named(summary, "student")
    labels = [text(label) for label in items(summary.get("labels"))]
    if teacher is None or student is None or not len(labels) == len(teacher.confusion) == len(student.confusion):
        return None
    lost = [one for place in range(len(labels)) if (one := _recalls(teacher, student, place)) is not None]
    if not lost:
        return None
    place, had, has, count = max(lost, key=lambda one: one[1] - one[2])
    words = (
        f"The student finds {percent_text(has)} of the {number_text(count)} test examples of '{labels[int(place)]}', "
        f"its teacher {percent_text(had)}. If the training examples have few of that class, add some, or set "
        "distill.prior: teacher, which corrects the student's bias without labels."
    )
    return Advice(words, {"teacher_recall": had, "student_recall": has, "n": count})


def _recalls(teacher: ModelFacts, student: ModelFacts, place: int) -> tuple[float, float, float, float] | None:
    """Return a class's place, both recalls and its count, if the student is worse at it for sure."""
    count = sum(teacher.confusion[place])
    if count < LEAST_OF_CLASS or count != sum(student.confusion[place]):
        return None
    had, has = teacher.confusion[place][place] / count, student.confusion[place][place] / count
    error = math.sqrt((had * (1 - had) + has * (1 - has)) / count)
    return (place, had, has, count) if had - has > max(LOST_RECALL, CLEAR * error) else None


def calibration(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where the final model's calibration error is high and more than twice its teacher's."""
    final, teacher = final_model(summary), model_named(summary, "teacher")
    known = all_known(final.get("ece"), teacher.get("ece")) if final and teacher else None
    if final is None or known is None or known[0] <= max(ECE_TOO_HIGH, 2 * known[1]):
        return None
    words = (
        f"The calibration error rose from {number_text(known[1])} (teacher) to {number_text(known[0])} ({final.name}): "
        "its probabilities say too much or too little. Before they are used as such, scale the logits on validation "
        "data; a gold term in the objective often lowers it too."
    )
    return Advice(words, {"teacher_ece": known[1], "final_ece": known[0]})
