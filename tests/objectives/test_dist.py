"""Relations between choices and between rows: by hand, weights, and what does not vary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.objectives.dist import Dist, unlikeness
from attar.objectives.learned import needs_whole_batch

Judge = Callable[..., tuple[float, torch.Tensor]]


def _dist(beta: float, gamma: float, temperature: float = 1.0) -> Dist:
    return Dist(Dist.Settings(beta=beta, gamma=gamma, temperature=temperature))


def test_between_choices_by_hand(judged: Judge) -> None:
    # p = (.5, .3, .2), q = (.2, .3, .5): centered (5, -1, -4) / 30 and (-4, -1, 5) / 30, product -39, squares 42
    teacher, student = (torch.log(torch.tensor([row])) for row in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]))
    assert judged(_dist(1, 0), student, teacher)[0] == pytest.approx(1 + 39 / 42, rel=1e-5)
    assert judged(_dist(3, 0, 1), student, teacher)[0] == pytest.approx(3 * (1 + 39 / 42), rel=1e-5)


def test_between_rows_by_hand(judged: Judge) -> None:
    # of two choices both columns say the same; p(first) = .1 .5 .6 centered (-.3, .1, .2), q = .2 .6 .4: (-.2, .2, 0)
    teacher, student = (
        torch.log(torch.tensor([[x, 1 - x] for x in row])) for row in ([0.1, 0.5, 0.6], [0.2, 0.6, 0.4])
    )
    expected = 1 - 0.08 / (0.14 * 0.08) ** 0.5
    assert judged(_dist(0, 1), student, teacher)[0] == pytest.approx(expected, rel=1e-5)


def test_a_row_of_weight_two_is_the_row_twice(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    twice = torch.tensor([0, 1, 2, 3, 3])
    heavy = torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    value, gradient = judged(_dist(1, 1), student, teacher, weight=heavy)
    other, parts = judged(_dist(1, 1), student[twice], teacher[twice])
    assert value == pytest.approx(other, rel=1e-9)
    assert torch.allclose(gradient[:3], parts[:3])
    assert torch.allclose(gradient[3], parts[3] + parts[4])


def test_a_linear_function_of_the_teachers_probabilities_agrees(judged: Judge) -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    assert judged(_dist(1, 1), (0.5 * p + 0.5 / 3).log(), p.log())[0] == pytest.approx(0, abs=1e-6)


def test_one_row_has_no_relation_to_others(judged: Judge) -> None:
    value, gradient = judged(_dist(0, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]]))
    assert value == 0.0
    assert (gradient == 0).all()


def test_what_does_not_vary() -> None:
    flat, line, even = torch.ones(1, 3), torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3)
    ours = flat.clone().requires_grad_()
    student_only = unlikeness(ours, line, even)
    student_only.sum().backward()
    assert student_only.tolist() == [1.0]
    assert ours.grad is not None
    assert torch.isfinite(ours.grad).all()
    assert unlikeness(line, flat, even).tolist() == [0.0]


def test_a_batch_is_not_cut_for_what_compares_its_rows() -> None:
    assert needs_whole_batch(_dist(1, 1))
