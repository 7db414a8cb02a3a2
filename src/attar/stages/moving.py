"""Pull a model in training towards the moving average of its own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from attar.core.examples import Examples
from attar.core.nouns import Loss, Model, Task
from attar.core.rows import Rows
from attar.objectives.blocks import evaluate
from attar.objectives.forward_kl import ForwardKL
from attar.settings import Settings
from attar.teachers.moving import MovingTeacher

if TYPE_CHECKING:
    import torch


class EmaSettings(Settings):
    """Set how a student learns from the moving average of its own weights.

    Example:
        >>> EmaSettings().decay
        0.99
    """

    decay: float = Field(0.99, ge=0, lt=1, description="share of the average that a step leaves")
    weight: float = Field(1.0, gt=0, le=1e6, description="of its forward KL in the sum")
    temperature: float = Field(1.0, gt=0, le=100, description="of that forward KL")


class SelfTeaching:
    """Add to a lesson's loss the forward KL against the student's moving average, beside all that the recipe asks.

    Args:
        settings: see `EmaSettings`.
        task: turns examples into rows.
    """

    def __init__(self, settings: EmaSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        self.objective = ForwardKL(ForwardKL.Settings(temperature=settings.temperature))
        self.teacher: MovingTeacher | None = None

    def begin(self, model: Model) -> torch.nn.Module:
        """Start the average at a model's weights and return the averaged network, which belongs in the checkpoint."""
        self.teacher = MovingTeacher(model, self.task, self.settings.decay)
        return self.teacher.module

    def add(self, loss: Loss, rows: Rows, examples: Examples, targets: torch.Tensor) -> Loss:
        """Return the loss with this one's share added; its part is called ``ema``.

        Args:
            loss: of the lesson's own objective.
            rows: what the student says.
            examples: the same, in the same order.
            targets: ``(rows,)``.

        Raises:
            ValueError: `begin` was not called.
        """
        if self.teacher is None:
            raise ValueError("self-teaching has not begun")
        own = evaluate(self.objective, rows, self.teacher.answer(examples), targets)
        return Loss(loss.total + self.settings.weight * own.total, {**loss.parts, "ema": own.total.detach()})

    def after(self, student: torch.nn.Module, step: int) -> None:
        """Move the average after an optimizer step.

        Args:
            student: as the step has left it.
            step: steps done, from 1.
        """
        if self.teacher is not None:
            self.teacher.after(student, step)
