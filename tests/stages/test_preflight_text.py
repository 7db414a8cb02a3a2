"""Faults that others have shipped, planted one by one: preflight names each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Batch, Loss, Model
from attar.core.rows import Head, Rows
from attar.errors import AttarError
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.divergence import Divergence
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum
from attar.stages.lesson import Lesson
from attar.stages.preflight import preflight
from attar.tasks.text_generation import TextGeneration
from attar.teachers.language_model import LanguageModelTeacher

KL = ForwardKL(ForwardKL.Settings(temperature=2))


def _lesson(writer: Callable[..., Model], pairs: Examples, objective: Any, task: TextGeneration) -> Lesson:
    return Lesson(task, pairs, pairs, objective, LanguageModelTeacher(writer(seed=9), task, "print"))


def test_the_right_task_and_objective_pass(writer: Callable[..., Model], pairs: Examples) -> None:
    both = WeightedSum([(1.0, KL), (0.5, CrossEntropy(CrossEntropy.Settings()))])
    checks = preflight(writer(), _lesson(writer, pairs, both, TextGeneration()))
    names = " ".join(check["name"] for check in checks)
    assert all(check["passed"] for check in checks)
    for part in ("completion's tokens", "causal shift", "neighbors", "own scores", "blocks of rows", "micro-batch"):
        assert part in names
    for part in ("mean over row weights (cross_entropy)", "softens", "student := teacher", "any order", "weight 0"):
        assert part in names


def test_a_live_teacher_in_bfloat16_passes(writer: Callable[..., Model], pairs: Examples) -> None:
    task = TextGeneration()
    teacher = LanguageModelTeacher(writer(seed=9), task, "print", torch.bfloat16)
    (blocks,) = (
        check for check in preflight(writer(), Lesson(task, pairs, pairs, KL, teacher)) if "blocks" in check["name"]
    )
    assert blocks["passed"]


class Late(TextGeneration):
    """Read each token's row one place late, where the model has seen the token."""

    def rows(self, model: Model, batch: Batch) -> Rows:
        return super().rows(model, replace(batch, inputs={**batch.inputs, "time": batch.inputs["time"] + 1}))


class Early(TextGeneration):
    """Read each token's row one place early."""

    def rows(self, model: Model, batch: Batch) -> Rows:
        return super().rows(model, replace(batch, inputs={**batch.inputs, "time": batch.inputs["time"] - 1}))


class Unshifted(TextGeneration):
    """Compare each row with the token before it."""

    def collate(self, model: Model, examples: Examples) -> Batch:
        batch = super().collate(model, examples)
        return replace(batch, targets=batch.targets.roll(1))


class Padded(TextGeneration):
    """Count a row of weight 0 for the prompt's last token."""

    def rows(self, model: Model, batch: Batch) -> Rows:
        rows = super().rows(model, batch)
        return replace(rows, weight=(rows.key[:, 1] > 0).float())


class Uncapped(TextGeneration):
    """Forget a scale that the model has."""

    def rows(self, model: Model, batch: Batch) -> Rows:
        rows = super().rows(model, batch)
        if rows.head is None:
            raise ValueError("no head")
        return replace(rows, head=Head(rows.head.weight * 2))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Late(), "the causal shift is right"),
        (Early(), "the causal shift is right"),
        (Unshifted(), "rows are the completion's tokens"),
        (Padded(), "rows are the completion's tokens"),
        (Uncapped(), "the model's own scores"),
    ],
    ids=["late", "early", "unshifted", "masked", "uncapped"],
)
def test_a_wrong_shift_or_mask_is_named(
    task: TextGeneration, words: str, writer: Callable[..., Model], pairs: Examples
) -> None:
    with pytest.raises(AttarError, match=words):
        preflight(writer(), _lesson(writer, pairs, KL, task))


class NoTemperature(ForwardKL):
    """Take a temperature and never use it."""

    def of_rows(self, student: Rows, teacher: Rows) -> torch.Tensor:
        return ForwardKL(self.settings.model_copy(update={"temperature": 1.0})).of_rows(student, teacher)

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        return ForwardKL(self.settings.model_copy(update={"temperature": 1.0}))(student, teacher, targets)


class NoSquare(ForwardKL):
    """Leave T² out."""

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        loss = super().__call__(student, teacher, targets)
        return Loss(loss.total / self.settings.temperature**2, loss.parts)


class TeacherSharp(Divergence):
    """Soften the student alone."""

    name: ClassVar[str] = "sharp"

    def of_rows(self, student: Rows, teacher: Rows) -> torch.Tensor:
        sharp = Rows(teacher.key, teacher.weight, teacher.dense() * self.settings.temperature)
        return KL.of_rows(student, sharp)


class AllTokens(ForwardKL):
    """Divide by all tokens, also by those of weight 0."""

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        if teacher is None:
            raise ValueError("no teacher")
        total = (self.of_rows(student, teacher) * student.weight).sum() / len(student) * self.settings.temperature**2
        return Loss(total, {"all": total.detach()})


class TwiceDivided(ForwardKL):
    """Divide by the number of tokens twice."""

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        loss = super().__call__(student, teacher, targets)
        return Loss(loss.total / student.weight.sum(), loss.parts)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoTemperature, "the temperature softens"),
        (NoSquare, "the temperature softens"),
        (TeacherSharp, "student := teacher"),
        (AllTokens, "mean over row weights"),
        (TwiceDivided, "mean over row weights"),
    ],
    ids=["no temperature", "no square", "teacher sharp", "all tokens", "twice divided"],
)
def test_a_wrong_temperature_or_denominator_is_named(
    kind: type[Divergence], words: str, writer: Callable[..., Model], pairs: Examples
) -> None:
    objective = kind(ForwardKL.Settings(temperature=2))
    with pytest.raises(AttarError, match=words):
        preflight(writer(), _lesson(writer, pairs, objective, TextGeneration()))


def test_texts_too_long_for_the_model_are_refused_before_training(
    writer: Callable[..., Model], pairs: Examples
) -> None:
    model = writer()
    model.module.config.max_position_embeddings = 100  # type: ignore[union-attr]
    with pytest.raises(AttarError, match="and the model has 100"):
        preflight(model, _lesson(writer, pairs, KL, TextGeneration()))


def test_a_student_that_begins_as_its_teacher_passes(writer: Callable[..., Model], pairs: Examples) -> None:
    task = TextGeneration()
    lesson = Lesson(task, pairs, pairs, KL, LanguageModelTeacher(writer(seed=3), task, "print"))
    assert all(check["passed"] for check in preflight(writer(seed=3), lesson))
