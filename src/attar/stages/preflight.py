"""Check an objective before time is spent on it: seconds that catch a silently wrong loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model, Objective
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import say
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.weighted import WeightedSum
from attar.optional import lazy
from attar.stages.loop import Lesson, accumulate, loss_of

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

EXAMPLES = 12
TOLERANCE = 1e-4  # relative, of float32 gradients summed in another order


@dataclass(frozen=True)
class Check:
    """Hold one check: its name, whether it passed, what was seen."""

    name: str
    passed: bool
    value: str

    def to_json(self) -> dict[str, Any]:
        """Return the check by name."""
        return {"name": self.name, "passed": self.passed, "value": self.value}


def preflight(model: Model, lesson: Lesson) -> list[dict[str, Any]]:
    """Run every check that exists for the lesson, in float32, without dropout, and leave the model as it was.

    Raises:
        AttarError: a check failed; the message names it.
    """
    examples = lesson.train.take(np.arange(min(EXAMPLES, len(lesson.train))))
    probe = replace(lesson, train=examples)
    was_training = model.module.training
    model.module.eval()
    checks = [_micro_batches(model, probe), _weight_zero(model, probe)]
    if lesson.teacher is not None and "logits" in lesson.objective.needs:
        checks += [*_self_teaching(model, probe), _order(probe), _gradient_ratio(model, probe)]
    model.module.zero_grad(set_to_none=True)
    model.module.train(was_training)
    failed = [check for check in checks if not check.passed]
    if failed:
        names = "; ".join(f"{check.name} ({check.value})" for check in failed)
        raise AttarError(
            f"Preflight stopped the run before training: {names}. The objective or its settings are wrong."
        )
    return [check.to_json() for check in checks]


def _gradient(model: Model, lesson: Lesson, micro: int) -> torch.Tensor:
    model.module.zero_grad(set_to_none=True)
    _, weight = accumulate(lesson, model, lesson.train, micro, lambda loss: loss.backward())
    parts = [p.grad.flatten() / weight for p in model.module.parameters() if p.grad is not None]
    return torch.cat(parts)


def _relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / first.norm().clamp_min(1e-12))


def _micro_batches(model: Model, lesson: Lesson) -> Check:
    error = _relative(_gradient(model, lesson, len(lesson.train)), _gradient(model, lesson, 3))
    return Check(
        "gradient does not change with micro-batch size", error < TOLERANCE, f"relative difference {error:.1e}"
    )


def _weight_zero(model: Model, lesson: Lesson) -> Check:
    terms = lesson.objective.terms if isinstance(lesson.objective, WeightedSum) else ((1.0, lesson.objective),)
    silent: Objective = CrossEntropy(CrossEntropy.Settings())
    with_zero = replace(lesson, objective=WeightedSum([*terms, (0.0, silent)]))
    error = _relative(_gradient(model, lesson, 4), _gradient(model, with_zero, 4))
    return Check("a term of weight 0 equals the term left out", error == 0.0, f"relative difference {error:.1e}")


def _divergences(objective: Objective) -> list[Objective]:
    terms = objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)
    return [term for _, term in terms if getattr(term, "divergence", False)]


def _self_teaching(model: Model, lesson: Lesson) -> list[Check]:
    checks = []
    for term in _divergences(lesson.objective):
        batch = lesson.task.collate(model, lesson.train)
        rows = lesson.task.rows(model, batch)
        scores = rows.dense()
        scores.retain_grad()
        loss = term(rows, rows.detach(), batch.targets.to(scores.device)).total
        loss.backward()
        gradient = float(scores.grad.abs().max()) if scores.grad is not None else 0.0
        name = type(term).__name__
        value = abs(float(loss.detach()))
        passed = value < 1e-5 and gradient < 1e-5
        seen = f"loss {value:.1e}, gradient {gradient:.1e}"
        checks.append(Check(f"student := teacher gives loss and gradient 0 ({name})", passed, seen))
    return checks


def _order(lesson: Lesson) -> Check:
    if lesson.teacher is None:
        raise ValueError("the order check needs a teacher")
    forward = lesson.teacher.answer(lesson.train)
    back = np.arange(len(lesson.train))[::-1].copy()
    reversed_rows: Rows = lesson.teacher.answer(lesson.train.take(back))
    places = torch.from_numpy(back)
    same = torch.equal(forward.key[places], reversed_rows.key) and torch.equal(
        forward.dense()[places], reversed_rows.dense()
    )
    return Check("the record answers alike in any order", same, "keys and scores equal" if same else "they differ")


def _gradient_ratio(model: Model, lesson: Lesson) -> Check:
    """Compare the size of the teacher's pull with that of plain hard targets; told, never fatal."""
    hard = replace(lesson, objective=CrossEntropy(CrossEntropy.Settings()))
    model.module.zero_grad(set_to_none=True)
    plain = _norm(model, hard)
    pull = _norm(model, lesson)
    ratio = plain / max(pull, 1e-12)
    if not 0.1 <= ratio <= 10:
        say(
            f"  warning: the gradient of cross-entropy is {ratio:.2g} times the objective's; outside 0.1 to 10 one "
            "drowns the other"
        )
    return Check("gradient of cross-entropy against the objective's", True, f"{ratio:.2f} : 1")


def _norm(model: Model, lesson: Lesson) -> float:
    model.module.zero_grad(set_to_none=True)
    loss, _ = loss_of(lesson, model, lesson.train)
    loss.total.backward()
    return float(torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None]).norm())
