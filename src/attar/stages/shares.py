"""Say how much each objective of a sum pulls: the norm of its gradient, weight included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.objectives.weighted import WeightedSum
from attar.optional import lazy
from attar.stages.lesson import Lesson, loss_of

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PROBE = 8
"""Examples that the shares are measured on."""


def gradient_shares(model: Model, lesson: Lesson, examples: Examples) -> dict[str, float]:
    """Return name -> share of the sum of gradient norms, over a few examples; empty for a single objective.

    A share near 0 says that the objective does nothing; shares are of norms, so two objectives that pull against each
    other both count. The model's gradients must be empty, and are empty afterwards.

    Args:
        model: the student.
        lesson: its objective at this point of training.
        examples: the first `PROBE` of them are looked at.
    """
    objective = lesson.objective
    if not isinstance(objective, WeightedSum) or len(objective.terms) < 2:
        return {}
    probe = examples.take(np.arange(min(PROBE, len(examples))))
    was_training = model.module.training
    model.module.eval()
    norms: dict[str, float] = {}
    for weight, term in objective.terms:
        loss, _ = loss_of(replace(lesson, objective=WeightedSum([(weight, term)]), moving=None), model, probe)
        loss.total.backward()
        name = next(iter(loss.parts))
        parts = [p.grad.norm() for p in model.module.parameters() if p.grad is not None]
        norms[name] = norms.get(name, 0.0) + (float(torch.stack(parts).norm()) if parts else 0.0)
        model.module.zero_grad(set_to_none=True)
    model.module.train(was_training)
    whole = sum(norms.values()) or 1.0
    return {name: round(norm / whole, 4) for name, norm in norms.items()}
