"""Self-teaching adds the pull of the moving average, and a kill changes nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.objectives.cross_entropy import CrossEntropy
from attar.stages.lesson import Lesson, loss_of
from attar.stages.loop import Trainer
from attar.stages.moving import EmaSettings, SelfTeaching
from attar.stages.schedule import TrainSettings
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_generation import TextGeneration

HARD = CrossEntropy(CrossEntropy.Settings())
TASK = ImageClassification()


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _lesson(images: Callable[..., Examples], **settings: Any) -> Lesson:
    return Lesson(TASK, images(22), images(20, seed=1), HARD, moving=SelfTeaching(EmaSettings(**settings), TASK))


def _train(model: Model, lesson: Lesson, work: Path, die_at: int | None = None) -> Any:
    settings = TrainSettings(epochs=4, batch_size=6, learning_rate=0.02, precision="float32", checkpoint_seconds=0)
    trainer = Trainer(model, lesson, settings, 7, work, "cpu")
    plain, calls = trainer._step, [0]

    def step(number: int) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == die_at:
            raise KeyboardInterrupt
        return plain(number)

    trainer._step = step  # type: ignore[method-assign]
    return trainer.run("t")


def _weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_loss_is_the_objectives_and_the_weighted_divergence(
    net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    model, lesson = net(), _lesson(images, weight=0.25, temperature=2.0)
    assert lesson.moving is not None
    lesson.moving.begin(net(seed=3))
    loss, rows = loss_of(lesson, model, lesson.train)
    batch = TASK.collate(model, lesson.train)
    student = torch.log_softmax(rows.dense().double() / 2, dim=1)
    teacher = torch.log_softmax(net(seed=3).module.eval()(batch.inputs["pixel_values"]).double() / 2, dim=1)
    divergence = 4 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()
    plain = torch.nn.functional.cross_entropy(rows.dense().double(), batch.targets)
    assert float(loss.total.detach()) == pytest.approx(float((plain + 0.25 * divergence).detach()), rel=1e-5)
    assert float(loss.parts["ema"]) == pytest.approx(float(divergence.detach()), rel=1e-4)
    wanted = torch.autograd.grad(plain + 0.25 * divergence, list(model.module.parameters()), retain_graph=True)
    found = torch.autograd.grad(loss.total, list(model.module.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_at_the_start_it_pulls_nowhere(net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    model, lesson = net(), _lesson(images)
    assert lesson.moving is not None
    lesson.moving.begin(model)
    plain = Lesson(TASK, lesson.train, lesson.validation, HARD)
    first, second = (loss_of(one, model, lesson.train)[0] for one in (lesson, plain))
    assert float(first.total.detach()) == pytest.approx(float(second.total.detach()), abs=1e-6)


def test_without_a_beginning_it_is_a_fault(net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    with pytest.raises(ValueError, match="has not begun"):
        loss_of(_lesson(images), net(), images(4))


@pytest.mark.parametrize("build", [{"dropout": 0.3}, {"net": "cnn", "widths": (3,)}], ids=str)
@pytest.mark.parametrize("die_at", [1, 6, 15])
def test_a_killed_run_ends_as_an_undisturbed_one(
    die_at: int, build: dict[str, Any], net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    undisturbed, lesson = net(**build), _lesson(images, decay=0.6)
    outcome = _train(undisturbed, lesson, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        _train(net(**build), _lesson(images, decay=0.6), tmp_path / "b", die_at)
    again, other = net(**build), _lesson(images, decay=0.6)
    assert _train(again, other, tmp_path / "b") == outcome
    assert torch.equal(_weights(undisturbed.module), _weights(again.module))
    assert lesson.moving is not None
    assert other.moving is not None
    assert lesson.moving.teacher is not None
    assert other.moving.teacher is not None
    assert torch.equal(_weights(lesson.moving.teacher.module), _weights(other.moving.teacher.module))


def test_it_changes_what_is_learned_and_the_average_is_not_the_student(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, plain, lesson = net(), net(), _lesson(images, weight=5.0)
    _train(model, lesson, tmp_path / "a")
    _train(plain, Lesson(TASK, lesson.train, lesson.validation, HARD), tmp_path / "b")
    assert not torch.equal(_weights(model.module), _weights(plain.module))
    assert lesson.moving is not None
    assert lesson.moving.teacher is not None
    assert not torch.allclose(_weights(lesson.moving.teacher.module), _weights(model.module), atol=1e-4)


def test_a_model_that_writes_learns_from_its_average(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    task = TextGeneration()
    lesson = Lesson(task, pairs, pairs, HARD, moving=SelfTeaching(EmaSettings(), task))
    settings = TrainSettings(steps=3, batch_size=4, learning_rate=0.01, precision="float32")
    outcome = Trainer(writer(), lesson, settings, 0, tmp_path, "cpu").run("t")
    assert outcome.steps == 3
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in outcome.history)
