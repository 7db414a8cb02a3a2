"""The moving teacher is the average of the student's weights, and answers without noise or gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_generation import TextGeneration
from attar.teachers.moving import MovingTeacher

TASK = ImageClassification()


def _shifted(module: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by


def test_it_starts_as_the_student_and_leaves_it_alone(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    model, examples = net(dropout=0.5), images(6)
    model.module.train()
    teacher = MovingTeacher(model, TASK)
    model.module.eval()
    plain = TASK.rows(model, TASK.collate(model, examples)).dense()
    said = teacher.answer(examples).dense()
    assert torch.equal(said, plain.detach())
    assert not said.requires_grad
    _shifted(model.module, 1.0)
    assert torch.equal(teacher.answer(examples).dense(), said)


def test_the_average_is_that_of_a_plain_computation(net: Callable[..., Model]) -> None:
    model = net()
    teacher = MovingTeacher(model, TASK, decay=0.7)
    wanted = [p.detach().double().clone() for p in model.module.parameters()]
    for step in range(1, 9):
        _shifted(model.module, 0.1 * step)
        teacher.after(model.module, step)
        decay = min(0.7, 1 - 1 / (step + 1))
        wanted = [decay * a + (1 - decay) * p.double() for a, p in zip(wanted, model.module.parameters(), strict=True)]
    for mine, plain in zip(teacher.module.parameters(), wanted, strict=True):
        assert torch.allclose(mine.double(), plain, atol=1e-5)


def test_the_first_steps_give_the_plain_mean_of_all_weights(net: Callable[..., Model]) -> None:
    model = net()
    teacher = MovingTeacher(model, TASK, decay=0.99)
    seen = [next(model.module.parameters()).detach().clone()]
    for step in (1, 2, 3):
        _shifted(model.module, 1.0)
        teacher.after(model.module, step)
        seen.append(next(model.module.parameters()).detach().clone())
    assert torch.allclose(next(iter(teacher.module.parameters())), torch.stack(seen).mean(dim=0), atol=1e-5)


def test_running_statistics_are_averaged_and_counts_are_copied(net: Callable[..., Model]) -> None:
    model = net(net="cnn", widths=(3,))
    teacher = MovingTeacher(model, TASK, decay=0.5)
    norm = next(part for part in model.module.modules() if isinstance(part, torch.nn.BatchNorm2d))
    mine = next(part for part in teacher.module.modules() if isinstance(part, torch.nn.BatchNorm2d))
    norm.running_mean.fill_(2.0)
    norm.num_batches_tracked.fill_(7)
    teacher.after(model.module, 100)
    assert mine.running_mean.tolist() == [1.0] * 3
    assert int(mine.num_batches_tracked) == 7


def test_nothing_of_it_is_trained(net: Callable[..., Model]) -> None:
    assert not any(p.requires_grad for p in MovingTeacher(net(), TASK).module.parameters())


def test_a_decay_of_0_follows_the_student(net: Callable[..., Model]) -> None:
    model = net()
    teacher = MovingTeacher(model, TASK, decay=0.0)
    _shifted(model.module, 1.0)
    teacher.after(model.module, 5)
    pairs = zip(teacher.module.parameters(), model.module.parameters(), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float, net: Callable[..., Model]) -> None:
    with pytest.raises(ValueError, match="decay"):
        MovingTeacher(net(), TASK, decay)


def test_a_model_that_writes_answers_lazily(writer: Callable[..., Model], pairs: Examples) -> None:
    model, task = writer(), TextGeneration()
    rows = MovingTeacher(model, task).answer(pairs)
    own = task.rows(model, task.collate(model, pairs))
    assert rows.logits is None
    assert torch.equal(rows.key, own.key)
    assert torch.allclose(rows.dense(), own.dense(), atol=1e-5)
