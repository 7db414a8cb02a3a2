"""Hold what a model is taught, and turn it into a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attar.core.capture import rows_with_features
from attar.core.examples import Examples
from attar.core.nouns import Loss, Model, Objective, Task, Teacher
from attar.core.rows import Rows
from attar.objectives.blocks import evaluate
from attar.objectives.learned import build_modules, features_of
from attar.objectives.ramp import Scheduled
from attar.optional import lazy
from attar.stages.moving import SelfTeaching

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Draw(Protocol):
    """Give the examples of a step; what it remembers from step to step is JSON, and is saved with each checkpoint."""

    def __call__(self, model: Model, examples: Examples, seed: int, progress: float) -> Examples:
        """Return as many examples as are given, at a share ``progress`` of training; ``seed`` is of this step."""

    def state(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` said; nothing if it is empty."""


@dataclass(frozen=True)
class Lesson:
    """Hold what a model is taught.

    Args:
        task: turns examples into rows.
        train: the examples, with the hard targets to use as their labels.
        validation: the examples that choose the best step, with their hard targets.
        objective: compares rows with the teacher's, or with hard targets.
        teacher: answers for the objective; None if it needs hard targets alone.
        draw: gives the examples of a step, which may be what the model itself wrote for them (on-policy training);
            None takes them as they are.
        moving: adds the pull of the model's own moving average; None for none.
    """

    task: Task
    train: Examples
    validation: Examples
    objective: Objective
    teacher: Teacher | None = None
    draw: Draw | None = None
    moving: SelfTeaching | None = None

    @property
    def asks(self) -> bool:
        """Tell whether the objective listens to the teacher."""
        return self.teacher is not None and self.objective.needs != {"hard"}

    def at(self, progress: float) -> Lesson:
        """Return the lesson at a share of training in [0, 1]: weights and temperatures may change."""
        return replace(self, objective=self.objective.at(progress)) if isinstance(self.objective, Scheduled) else self

    def fullest(self) -> Lesson:
        """Return the lesson with each weight and temperature that changes at its larger end."""
        return replace(self, objective=self.objective.fullest()) if isinstance(self.objective, Scheduled) else self


def loss_of(lesson: Lesson, model: Model, examples: Examples) -> tuple[Loss, Rows]:
    """Return the objective's loss on some examples, with the model's rows."""
    batch = lesson.task.collate(model, examples)
    rows = rows_with_features(lesson.task, model, batch, features_of(lesson.objective)[0])
    said = None
    if lesson.teacher is not None and lesson.asks:
        said = lesson.teacher.answer(examples).to(rows.key.device)
        if not torch.equal(said.key, rows.key):
            raise ValueError("the teacher's rows are not those of the student: their keys differ")
    targets = batch.targets.to(rows.key.device)
    loss = evaluate(lesson.objective, rows, said, targets)
    return loss if lesson.moving is None else lesson.moving.add(loss, rows, examples, targets), rows


def build_learned(lesson: Lesson, model: Model, seed: int) -> torch.nn.ModuleList:
    """Make what the objectives learn beside the student (projectors), and return it; empty for most.

    Args:
        lesson: its first examples show the shapes.
        model: the student, on the device it is trained on.
        seed: of the new weights.
    """
    if lesson.teacher is None or not features_of(lesson.objective)[0]:
        return torch.nn.ModuleList()
    examples = lesson.train.take(np.arange(min(2, len(lesson.train))))
    was_training = model.module.training
    model.module.eval()
    with torch.no_grad():
        batch = lesson.task.collate(model, examples)
        rows = rows_with_features(lesson.task, model, batch, features_of(lesson.objective)[0])
        torch.manual_seed(seed)
        learned = build_modules(lesson.objective, rows, lesson.teacher.answer(examples).to(rows.key.device))
    model.module.train(was_training)
    return learned


def accumulate(
    lesson: Lesson, model: Model, examples: Examples, micro: int, backward: Callable[[torch.Tensor], Any]
) -> tuple[float, float]:
    """Add the gradient of the summed loss of a batch, in micro-batches.

    Each micro-batch's mean is multiplied by its own row weight, so the sum over micro-batches, divided by the
    weight of all, is the mean over the batch however it was split.

    Returns:
        The summed loss, and the summed weight of rows.
    """
    summed, weight = 0.0, 0.0
    for first in range(0, len(examples), micro):
        loss, rows = loss_of(lesson, model, examples.take(np.arange(first, min(first + micro, len(examples)))))
        own = rows.weight.sum().detach()
        backward(loss.total * own)
        summed += float(loss.total.detach() * own)
        weight += float(own)
    return summed, weight
