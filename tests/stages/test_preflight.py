"""A wrong loss must stop the run; a right one must pass and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Loss, Model
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.ramp import Ramp, Scheduled, Term
from attar.stages.lesson import Lesson
from attar.stages.preflight import preflight
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher

KL = ForwardKL(ForwardKL.Settings())


class Summed(ForwardKL):
    """Sum where a mean is due: the gradient changes with the micro-batch."""

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        loss = super().__call__(student, teacher, targets)
        return Loss(loss.total * len(targets), loss.parts)


class Shifted(ForwardKL):
    """Compare with the teacher's next choice: a student that is the teacher still has a loss."""

    divergence: ClassVar[bool] = True

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        if teacher is None:
            raise ValueError("no teacher")
        return super().__call__(student, Rows(teacher.key, teacher.weight, teacher.dense().roll(1, -1)), targets)


def _lesson(net: Callable[..., Model], images: Callable[..., Examples], objective: Any) -> Lesson:
    teacher = ClassifierTeacher(net(seed=5), ImageClassification(), "print")
    return Lesson(ImageClassification(), images(16), images(8), objective, teacher)


@pytest.mark.parametrize("objective", [KL, CrossEntropy(CrossEntropy.Settings())], ids=["kl", "ce"])
def test_a_right_objective_passes_and_changes_nothing(
    objective: Any, net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    model = net(net="cnn", widths=(3,), dropout=0.2)
    model.module.train()
    before = [tensor.clone() for tensor in model.module.state_dict().values()]
    checks = preflight(model, _lesson(net, images, objective))
    assert all(check["passed"] for check in checks)
    assert len(checks) == (7 if objective is KL else 3)
    assert model.module.training
    assert all(p.grad is None for p in model.module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.module.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("objective", "words"),
    [(Summed(Summed.Settings()), "micro-batch size"), (Shifted(Shifted.Settings()), "student := teacher")],
    ids=["summed", "shifted"],
)
def test_a_wrong_objective_stops_the_run(
    objective: Any, words: str, net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    with pytest.raises(AttarError, match=f"Preflight stopped the run.*{words}"):
        preflight(net(), _lesson(net, images, objective))


def test_a_wrong_objective_that_enters_later_stops_the_run(
    net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    entering = Term(Ramp(start=0, end=1), Shifted(Shifted.Settings()))
    with pytest.raises(AttarError, match="student := teacher"):
        preflight(net(), _lesson(net, images, Scheduled([Term(1.0, CrossEntropy(CrossEntropy.Settings())), entering])))


@pytest.mark.parametrize("objective", [KL, CrossEntropy(CrossEntropy.Settings())], ids=["kl", "ce"])
def test_a_model_that_answers_by_label_words_passes(
    objective: Any, label_reader: Callable[..., Model], texts: Examples
) -> None:
    model, teacher = label_reader(), label_reader(layers=1)
    model.facts["prompt"]["calibration"] = [-0.3, -1.1]
    lesson = Lesson(TextClassification(), texts, texts, objective, ClassifierTeacher(teacher, TextClassification(), ""))
    checks = preflight(model, lesson)
    assert all(check["passed"] for check in checks)
    assert len(checks) == (7 if objective is KL else 3)
