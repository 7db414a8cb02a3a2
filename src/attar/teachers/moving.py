"""Answer with the moving average of the student's own weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from attar.core.examples import Examples
from attar.core.nouns import Model, Signal, Task
from attar.core.rows import Rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class MovingTeacher:
    """Answer live with an exponential moving average of a student's weights; it changes with every step.

    The average starts as the student is. In step t (from 1) its decay is ``min(decay, 1 - 1 / (t + 1))``: at first a
    plain mean of all weights so far, so that the first, random ones are soon forgotten.

    Args:
        model: the student, on the device it is trained on; it is copied.
        task: turns examples into its inputs.
        decay: share of the average that a step leaves, in [0, 1).

    Raises:
        ValueError: the decay is out of range.

    Reference:
        Tarvainen and Valpola 2017, "Mean teachers are better role models", equation 2 and section 3.2.
    """

    def __init__(self, model: Model, task: Task, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.model = replace(model, module=copy.deepcopy(model.module).eval().requires_grad_(False))
        self.task = task
        self.decay = decay
        self.fingerprint = "the student's moving average"
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})

    @property
    def module(self) -> torch.nn.Module:
        """Return the averaged network: what a checkpoint must hold."""
        return self.model.module

    def answer(self, examples: Examples) -> Rows:
        """Return the average's rows in the task's own form, without dropout and without gradient."""
        with torch.no_grad():
            return self.task.rows(self.model, self.task.collate(self.model, examples)).detach()

    def after(self, student: torch.nn.Module, step: int) -> None:
        """Move the average towards the student's weights.

        Args:
            student: as a step has left it.
            step: steps done, from 1.
        """
        share = 1.0 - min(self.decay, 1.0 - 1.0 / (step + 1))
        with torch.no_grad():
            for mine, own in zip(_tensors(self.module), _tensors(student), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(own, share)
                else:
                    mine.copy_(own)


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return a network's weights, tied ones once, and its running statistics."""
    return [*module.parameters(), *module.buffers()]
