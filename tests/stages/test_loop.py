"""Train tiny networks: the gradient, the kill, the best step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model
from attar.core.rows import Rows, example_rows
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum
from attar.stages import loop
from attar.stages.lesson import Lesson, accumulate, loss_of
from attar.stages.loop import Trainer
from attar.stages.schedule import TrainSettings
from attar.tasks.image_classification import ImageClassification

HARD = CrossEntropy(CrossEntropy.Settings())
BOTH = WeightedSum([(0.5, HARD), (0.5, ForwardKL(ForwardKL.Settings(temperature=2)))])


class Oracle:
    """Answer with fixed logits by key, as a record would."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "oracle"

    def answer(self, examples: Examples) -> Rows:
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return example_rows(keys, torch.stack([keys.float().sin(), keys.float().cos()], dim=1) * 2)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _lesson(images: Callable[..., Examples], objective: Any = BOTH, count: int = 22) -> Lesson:
    teacher = Oracle() if "logits" in objective.needs else None
    return Lesson(ImageClassification(), images(count), images(20, seed=1), objective, teacher)


def _settings(**changes: Any) -> TrainSettings:
    base = {"epochs": 4, "batch_size": 6, "learning_rate": 0.02, "precision": "float32", "checkpoint_seconds": 0}
    return TrainSettings(**{**base, **changes})


def _gradient(model: Model, lesson: Lesson, micro: int) -> torch.Tensor:
    model.module.zero_grad()
    _, weight = accumulate(lesson, model, lesson.train, micro, lambda loss: loss.backward())
    return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None]) / weight


def _weights(model: Model) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.module.state_dict().values()]


@pytest.mark.parametrize("objective", [HARD, BOTH], ids=["hard", "both"])
def test_the_gradient_does_not_change_with_the_micro_batch(
    objective: Any, net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    model, lesson = net(), _lesson(images, objective)
    whole = _gradient(model, lesson, 22)
    loss, _ = loss_of(lesson, model, lesson.train)
    plain = torch.autograd.grad(loss.total, list(model.module.parameters()))
    assert (torch.cat([g.flatten() for g in plain]) - whole).norm() < 1e-5 * whole.norm()
    for micro in (1, 3, 11, 21, 100):
        assert (_gradient(model, lesson, micro) - whole).norm() < 1e-5 * whole.norm()


def test_the_gradient_does_not_change_with_the_micro_batch_where_targets_are_missing(
    net: Callable[..., Model], images: Callable[..., Examples]
) -> None:
    model, lesson = net(), _lesson(images, HARD)
    lesson.train.labels[:7] = UNKNOWN
    whole = _gradient(model, lesson, 22)
    for micro in (1, 3, 11):
        assert (_gradient(model, lesson, micro) - whole).norm() < 1e-5 * whole.norm()


def test_a_step_does_not_change_with_the_micro_batch(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    ends = []
    for micro in (None, 1, 4):
        model = net()
        Trainer(
            model, _lesson(images), _settings(micro_batch_size=micro, epochs=1), 0, tmp_path / str(micro), "cpu"
        )._step(0)
        ends.append(torch.cat([tensor.flatten() for tensor in _weights(model)]))
    assert torch.allclose(ends[0], ends[1], atol=1e-6)
    assert torch.allclose(ends[0], ends[2], atol=1e-6)


def test_rows_of_another_example_are_a_fault(net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    class Wrong(Oracle):
        def answer(self, examples: Examples) -> Rows:
            return super().answer(examples.take(np.arange(len(examples))[::-1]))

    lesson = Lesson(ImageClassification(), images(4), images(4), BOTH, Wrong())
    with pytest.raises(ValueError, match="their keys differ"):
        loss_of(lesson, net(), lesson.train)


def test_a_teacher_that_no_one_needs_is_not_asked(net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    class Silent(Oracle):
        def answer(self, examples: Examples) -> Rows:
            raise AssertionError("asked")

    lesson = Lesson(ImageClassification(), images(4), images(4), HARD, Silent())
    assert torch.isfinite(loss_of(lesson, net(), lesson.train)[0].total)


def test_it_learns(net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path) -> None:
    model = net()
    outcome = Trainer(
        model, _lesson(images, HARD, 64), _settings(epochs=8, checkpoint_seconds=1000), 0, tmp_path, "cpu"
    ).run("t")
    assert outcome.history[-1]["validation"] > 0.9
    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"]
    assert outcome.steps == 8 * 11 == outcome.history[-1]["step"]
    assert not model.module.training


class Killed(Exception):
    """Stand for the kill of the process."""


def _run(model: Model, lesson: Lesson, work: Path, kill: tuple[str, int] | None = None, **settings: Any) -> Any:
    """Train; where ``kill`` names a method of the trainer, die in its n-th call."""
    trainer = Trainer(model, lesson, _settings(**settings), 7, work, "cpu")
    if kill:
        plain, calls = getattr(trainer, kill[0]), [0]

        def dies(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == kill[1]:
                raise Killed
            return plain(*args)

        setattr(trainer, kill[0], dies)
    return trainer.run("t")


DROPOUT: dict[str, Any] = {"dropout": 0.3}
BATCHNORM: dict[str, Any] = {"net": "cnn", "widths": (3,)}


@pytest.mark.parametrize(
    ("kill", "build"),
    [
        (("_step", 1), DROPOUT),
        (("_step", 6), DROPOUT),
        (("_step", 6), BATCHNORM),
        (("_validate", 3), DROPOUT),
        (("_save", 5), DROPOUT),
        (("_save", 17), BATCHNORM),
    ],
    ids=str,
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    kill: tuple[str, int],
    build: dict[str, Any],
    net: Callable[..., Model],
    images: Callable[..., Examples],
    tmp_path: Path,
) -> None:
    undisturbed = net(**build)
    outcome = _run(undisturbed, _lesson(images), tmp_path / "a")
    assert outcome.steps == 16
    with pytest.raises(Killed):
        _run(net(**build), _lesson(images), tmp_path / "b", kill)
    again = net(**build)
    assert _run(again, _lesson(images), tmp_path / "b") == outcome
    assert all(torch.equal(a, b) for a, b in zip(_weights(undisturbed), _weights(again), strict=True))


def test_killed_twice_with_rare_checkpoints(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    undisturbed = net(dropout=0.2)
    outcome = _run(undisturbed, _lesson(images), tmp_path / "a")
    model = net(dropout=0.2)
    for kill in (("_step", 9), ("_step", 4)):
        with pytest.raises(Killed):
            _run(model, _lesson(images), tmp_path / "b", kill, checkpoint_seconds=1000)
        model = net(dropout=0.2)
    assert _run(model, _lesson(images), tmp_path / "b", checkpoint_seconds=1000) == outcome
    assert all(torch.equal(a, b) for a, b in zip(_weights(undisturbed), _weights(model), strict=True))


def test_no_step_is_repeated_after_its_checkpoint(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        _run(net(), _lesson(images), tmp_path, ("_step", 6))
    steps: list[int] = []
    plain = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, step: steps.append(step) or plain(self, step))
    _run(net(), _lesson(images), tmp_path)
    assert steps == list(range(5, 16))


def test_a_finished_run_trains_no_further(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    first, second = net(), net()
    outcome = _run(first, _lesson(images), tmp_path)
    assert _run(second, _lesson(images), tmp_path, ("_step", 1)) == outcome
    assert all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(second), strict=True))


def _scripted(monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]]) -> list[list[torch.Tensor]]:
    """Replace validation by made-up ``(accuracy, loss)``; return the weights at each."""
    seen: list[list[torch.Tensor]] = []

    def score(self: Trainer, examples: Examples) -> tuple[float, float]:
        seen.append([tensor.clone() for tensor in self.plain.state_dict().values()])
        return scores[len(seen) - 1]

    monkeypatch.setattr(Trainer, "_score", score)
    return seen


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 1.0), (0.9, 1.0), (0.7, 0.1), (0.8, 0.1)], 2),
        ([(0.5, 1.0), (0.9, 1.0), (0.9, 0.5), (0.9, 0.7)], 3),
        ([(0.5, 1.0)] * 4, 1),
        ([(0.0, 9.0), (0.1, 9.0), (0.2, 9.0), (0.3, 9.0)], 4),
    ],
)
def test_the_best_weights_are_restored(
    scores: list[tuple[float, float]],
    best: int,
    net: Callable[..., Model],
    images: Callable[..., Examples],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _scripted(monkeypatch, scores)
    model = net()
    outcome = _run(model, _lesson(images), tmp_path)
    assert outcome.best_step == 4 * best
    assert all(torch.equal(a, b) for a, b in zip(_weights(model), seen[best - 1], strict=True))


def test_it_stops_where_validation_gains_no_more(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(
        monkeypatch, [(0.5, 1.0), (0.6, 1.0), (0.6, 1.0), (0.4, 0.0), (0.9, 0.0), (0.9, 0.0), (0.9, 0.0), (0.9, 0.0)]
    )
    outcome = _run(net(), _lesson(images), tmp_path, validations=8, patience=2)
    assert (outcome.steps, outcome.best_step) == (8, 4)


def test_validation_passes_over_unknown_targets(
    net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, lesson = net(), _lesson(images, HARD)
    lesson.validation.labels[5:] = UNKNOWN
    trainer = Trainer(model, lesson, _settings(), 0, tmp_path, "cpu")
    with torch.no_grad():
        batch = ImageClassification().collate(model, lesson.validation.take(np.arange(5)))
        scores = model.module(batch.inputs["pixel_values"])
    accuracy, loss = trainer._score(lesson.validation)
    assert accuracy == pytest.approx(float((scores.argmax(1) == batch.targets).float().mean()))
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(scores, batch.targets)), rel=1e-5)


def test_weight_decay_spares_biases_and_norms(net: Callable[..., Model]) -> None:
    module = net(net="cnn", widths=(3,)).module
    groups = loop._optimizer(module, _settings(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_frozen_parameters_stay(net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path) -> None:
    model = net()
    first = next(model.module.parameters())
    first.requires_grad_(False)
    before = first.clone()
    _run(model, _lesson(images), tmp_path)
    assert torch.equal(first, before)


def test_clipping_bounds_the_step(net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path) -> None:
    trainer = Trainer(net(), _lesson(images), _settings(clip=1e-3), 0, tmp_path, "cpu")
    norms = []
    plain = trainer.optimizer.step
    trainer.optimizer.step = lambda: (
        norms.append(  # type: ignore[method-assign]
            float(torch.cat([p.grad.flatten() for p in trainer.plain.parameters() if p.grad is not None]).norm())
        )
        or plain()
    )
    trainer._step(0)
    assert norms == pytest.approx([1e-3], rel=1e-3)


def test_bfloat16_is_named(net: Callable[..., Model], images: Callable[..., Examples], tmp_path: Path) -> None:
    outcome = _run(net(), _lesson(images), tmp_path, precision="bfloat16", epochs=1)
    assert outcome.precision == "bfloat16"
