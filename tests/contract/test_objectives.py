"""Run every objective of the catalogue through what an objective promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.nouns import Objective
from attar.core.rows import Rows

NAMES = sorted(catalog.TABLES["objective"])
TARGETS = torch.tensor([0, 2, 1, 1, 0])


def _objective(name: str, **settings: Any) -> Any:
    kind = catalog.entry("objective", name)
    return kind(kind.Settings(**settings))


def _inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return tuple(x.to(dtype) for x in (torch.randn(5, 3) * 2, torch.randn(5, 3) * 2, torch.rand(5) + 0.1))  # type: ignore[return-value]


def _gradient(
    objective: Any, student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> Any:
    logits = student.clone().requires_grad_()
    key = torch.stack([torch.arange(len(logits)), torch.zeros(len(logits), dtype=torch.long)], dim=1)
    loss = objective(Rows(key, weight, logits), Rows(key, torch.ones_like(weight), teacher), targets)
    loss.total.backward()
    return loss, logits.grad


def _slow(name: str) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of one row in float64, written as in the paper, at the default settings."""

    def forward_kl(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        temperature = catalog.entry("objective", "forward_kl").Settings().temperature
        p = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum()
        q = torch.exp(student / temperature) / torch.exp(student / temperature).sum()
        return temperature**2 * sum(p[i] * torch.log(p[i] / q[i]) for i in range(len(p)))  # type: ignore[no-any-return]

    def cross_entropy(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -torch.log(torch.exp(student[target]) / torch.exp(student).sum())

    return {"forward_kl": forward_kl, "cross_entropy": cross_entropy}[name]


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_protocol(name: str) -> None:
    objective = _objective(name)
    assert isinstance(objective, Objective)
    assert objective.needs
    assert objective.needs <= {"logits", "hard"}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_the_slow_version(name: str) -> None:
    student, teacher, weight = _inputs()
    loss, gradient = _gradient(_objective(name), student, teacher, weight, TARGETS)
    exact = student.double().requires_grad_()
    slow, total = _slow(name), weight.double()
    summed = sum(total[i] * slow(exact[i], teacher.double()[i], TARGETS[i]) for i in range(5)) / total.sum()
    summed.backward()  # type: ignore[union-attr]
    assert exact.grad is not None
    assert loss.total.item() == pytest.approx(summed.item(), rel=1e-5)  # type: ignore[union-attr]
    assert (gradient - exact.grad).norm() <= 1e-5 * exact.grad.norm()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    student, teacher, weight = _inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    loss, gradient = _gradient(_objective(name), student, teacher, weight, TARGETS)
    other, moved = _gradient(_objective(name), student[order], teacher[order], weight[order], TARGETS[order])
    assert other.total.item() == pytest.approx(loss.total.item(), rel=1e-6)
    assert torch.allclose(moved, gradient[order], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_zero_do_not_matter(name: str) -> None:
    student, teacher, weight = _inputs()
    weight[1] = weight[4] = 0.0
    stays = torch.tensor([0, 2, 3])
    loss, gradient = _gradient(_objective(name), student, teacher, weight, TARGETS)
    fewer, kept = _gradient(_objective(name), student[stays], teacher[stays], weight[stays], TARGETS[stays])
    assert loss.total.item() == pytest.approx(fewer.total.item(), rel=1e-6)
    assert torch.allclose(gradient[stays], kept, rtol=1e-5)
    assert (gradient[[1, 4]] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_at_all_gives_zero(name: str) -> None:
    student, teacher, weight = _inputs()
    loss, gradient = _gradient(_objective(name), student, teacher, torch.zeros_like(weight), TARGETS)
    assert loss.total.item() == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_student_as_its_own_teacher(name: str) -> None:
    objective = _objective(name)
    if not objective.divergence:
        pytest.skip("no divergence")
    student, _, weight = _inputs()
    loss, gradient = _gradient(objective, student, student, weight, TARGETS)
    assert abs(loss.total.item()) < 1e-6
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rows_are_computed_in_float32(name: str) -> None:
    student, teacher, weight = _inputs()
    low = _gradient(_objective(name), student.bfloat16(), teacher.bfloat16(), weight, TARGETS)[0]
    assert low.total.dtype == torch.float32
    assert torch.isfinite(low.total)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_cut_from_the_gradient(name: str) -> None:
    loss, _ = _gradient(_objective(name), *_inputs(), TARGETS)
    assert loss.parts
    assert not any(part.requires_grad for part in loss.parts.values())
