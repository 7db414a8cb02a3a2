"""Jensen-Shannon divergence by hand, its ends, and its bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.forward_kl import ForwardKL
from attar.objectives.jensen_shannon import JensenShannon
from attar.objectives.reverse_kl import ReverseKL

Judge = Callable[..., tuple[float, torch.Tensor]]


def _js(beta: float, temperature: float = 1.0) -> JensenShannon:
    return JensenShannon(JensenShannon.Settings(beta=beta, temperature=temperature))


def test_by_hand(judged: Judge) -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8):
    # 1/2 [3/4 ln(6/5) + 1/4 ln(2/3)] + 1/2 [1/2 ln(4/5) + 1/2 ln(4/3)] = 0.0338221
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert judged(_js(0.5), torch.zeros(1, 2), teacher)[0] == pytest.approx(0.0338221, abs=1e-6)


@pytest.mark.parametrize(("beta", "share", "end"), [(1e-4, 1e-4, ForwardKL), (1 - 1e-4, 1e-4, ReverseKL)])
def test_the_ends_point_where_the_kl_points(beta: float, share: float, end: type, judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    value, gradient = judged(_js(beta), student, teacher)
    limit, toward = judged(end(end.Settings(temperature=1)), student, teacher)
    assert value / share == pytest.approx(limit, rel=1e-2)
    assert (gradient / share - toward).norm() <= 1e-2 * toward.norm()


def test_near_the_teacher_the_gradient_is_a_quarter_of_forward_kl(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    student = teacher + 1e-3 * torch.randn(4, 5, generator=draw, dtype=torch.float64)
    near = judged(_js(0.5), student, teacher)[1]
    whole = judged(ForwardKL(ForwardKL.Settings(temperature=1)), student, teacher)[1]
    assert (near - whole / 4).norm() <= 2e-3 * near.norm()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_opposites_cost_the_entropy_of_the_mixture(beta: float, judged: Judge) -> None:
    student, teacher = torch.tensor([[-200.0, 0.0]]), torch.tensor([[0.0, -math.inf]])
    value, gradient = judged(_js(beta), student, teacher)
    assert value == pytest.approx(-beta * math.log(beta) - (1 - beta) * math.log(1 - beta), rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_what_both_rule_out_has_no_gradient(judged: Judge) -> None:
    student, teacher = torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[1.0, 0.0, -math.inf]])
    value, gradient = judged(_js(0.5), student, teacher)
    pair, exact = judged(_js(0.5), student[:, :2], teacher[:, :2])
    assert value == pytest.approx(pair)
    assert gradient.tolist()[0] == pytest.approx([*exact.tolist()[0], 0.0])
