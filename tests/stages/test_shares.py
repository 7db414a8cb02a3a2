from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum
from attar.stages.lesson import Lesson, loss_of
from attar.stages.shares import gradient_shares
from attar.tasks.image_classification import ImageClassification
from attar.teachers.classifier import ClassifierTeacher

CE, KL = CrossEntropy(CrossEntropy.Settings()), ForwardKL(ForwardKL.Settings())


def _norm(model: Model, lesson: Lesson, examples: Examples) -> float:
    loss, _ = loss_of(lesson, model, examples)
    gradients = torch.autograd.grad(loss.total, list(model.module.parameters()))
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def test_shares_are_of_the_norms_of_each_terms_gradient(
    net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    task, model, some = ImageClassification(), net(), images(8)
    teacher = ClassifierTeacher(net(seed=5), task, "print")
    lesson = Lesson(task, some, some, WeightedSum([(2.0, KL), (0.5, CE)]), teacher)
    found = gradient_shares(model, lesson, some)
    kl = 2.0 * _norm(model, Lesson(task, some, some, KL, teacher), some)
    ce = 0.5 * _norm(model, Lesson(task, some, some, CE, teacher), some)
    assert found == {
        "forward_kl": pytest.approx(kl / (kl + ce), abs=1e-3),
        "cross_entropy": pytest.approx(ce / (kl + ce), abs=1e-3),
    }
    assert all(p.grad is None for p in model.module.parameters())


def test_a_single_objective_has_no_shares(net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    some = images(8)
    lesson = Lesson(ImageClassification(), some, some, WeightedSum([(1.0, CE)]))
    assert gradient_shares(net(), lesson, some) == {}
