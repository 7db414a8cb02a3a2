"""Make rows with features, and compare objectives on features with slow versions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.core.rows import Rows

Features = dict[str, torch.Tensor]
NOTHING = torch.zeros(1, dtype=torch.long)


def rows(features: Features, weight: torch.Tensor | None = None) -> Rows:
    """Return one row an example, with these features."""
    count = len(next(iter(features.values())))
    key = torch.stack([torch.arange(count) + 10, torch.zeros(count, dtype=torch.long)], dim=1)
    return Rows(key, torch.ones(count) if weight is None else weight, torch.zeros(count, 2), features=features)


def taken(features: Features, order: list[int]) -> Features:
    """Return the features of some examples."""
    return {name: tensor[order] for name, tensor in features.items()}


def built(objective: Any, student: Features, teacher: Features, seed: int = 0) -> Any:
    """Return the objective with what it learns made, from a seed that touches no other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective.build(rows(student), rows(teacher))
    return objective


def measure(
    objective: Any, student: Features, teacher: Features, weight: torch.Tensor | None = None
) -> tuple[float, Features]:
    """Return a loss, and its gradient with respect to each feature of the student and each learned part."""
    leaves = {name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in student.items()}
    learned = {} if objective.module is None else dict(objective.module.named_parameters())
    for parameter in learned.values():
        parameter.grad = None
    loss = objective(rows(leaves, weight), rows(teacher), NOTHING).total
    loss.backward()
    return loss.item(), {name: leaf.grad for name, leaf in {**leaves, **learned}.items() if leaf.grad is not None}


def compare(
    objective: Any, slow: Callable[..., Any], student: Features, teacher: Features, weight: torch.Tensor
) -> None:
    """Compare value and gradients with a slow version in float64, to 1e-5.

    Args:
        objective: what is tested, in float32.
        slow: takes the student's features, the teacher's, the weights and the learned parts, all float64.
        student: features.
        teacher: features.
        weight: of examples.
    """
    value, gradient = measure(objective, student, teacher, weight)
    parts = {} if objective.module is None else dict(objective.module.named_parameters())
    exact, learned = ({name: _leaf(tensor) for name, tensor in some.items()} for some in (student, parts))
    right = slow(exact, {name: _leaf(tensor).detach() for name, tensor in teacher.items()}, weight.double(), learned)
    right.backward()
    assert value == pytest.approx(right.item(), rel=1e-5)
    wanted = {name: leaf.grad for name, leaf in {**exact, **learned}.items() if leaf.grad is not None}
    assert wanted.keys() == gradient.keys()
    for name, found in gradient.items():
        assert (found - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().double().requires_grad_()


@pytest.fixture
def features() -> SimpleNamespace:
    """Return the tools: ``rows``, ``taken``, ``built``, ``measure``, ``compare``."""
    return SimpleNamespace(rows=rows, taken=taken, built=built, measure=measure, compare=compare)
