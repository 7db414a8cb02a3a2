"""Skewed divergences by hand, their bound, and the share that each row is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.skew import LEAST, SkewSettings, share_of
from attar.objectives.skewed_forward_kl import SkewedForwardKL
from attar.objectives.skewed_reverse_kl import SkewedReverseKL

Judge = Callable[..., tuple[float, torch.Tensor]]
KINDS = [SkewedForwardKL, SkewedReverseKL]
TEACHER = torch.tensor([[math.log(3.0), 0.0]])


def test_forward_by_hand(judged: Judge) -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2), 0.2 p + 0.8 q = (0.55, 0.45): 3/4 ln(.75/.55) + 1/4 ln(.25/.45) = 0.0856698
    objective = SkewedForwardKL(SkewedForwardKL.Settings(temperature=1, alpha=0.2))
    assert judged(objective, torch.zeros(1, 2), TEACHER)[0] == pytest.approx(0.0856698, abs=1e-6)


def test_reverse_by_hand(judged: Judge) -> None:
    # 0.8 p + 0.2 q = (0.7, 0.3): 1/2 ln(.5/.7) + 1/2 ln(.5/.3) = 0.0871767
    objective = SkewedReverseKL(SkewedReverseKL.Settings(temperature=1, alpha=0.2))
    assert judged(objective, torch.zeros(1, 2), TEACHER)[0] == pytest.approx(0.0871767, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_opposites_cost_the_logarithm_of_the_share(kind: type, adaptive: bool, judged: Judge) -> None:
    objective = kind(kind.Settings(temperature=1, alpha=0.1, adaptive=adaptive))
    value, gradient = judged(objective, torch.tensor([[-200.0, 0.0]]), torch.tensor([[0.0, -math.inf]]))
    assert value == pytest.approx(math.log(10), rel=1e-5)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_both_rule_out_has_no_gradient(kind: type, judged: Judge) -> None:
    student, teacher = torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[1.0, 0.0, -math.inf]])
    objective = kind(kind.Settings(temperature=1))
    exact = judged(objective, student[:, :2], teacher[:, :2])[1]
    assert judged(objective, student, teacher)[1].tolist()[0] == pytest.approx([*exact.tolist()[0], 0.0])


def test_the_share_by_hand() -> None:
    # a = (0.9, 0.1): against b = (0.78, 0.22), E_a[a - b] = 0.9 * 0.12 - 0.1 * 0.12 = 0.096 and
    # 1 - 0.9 * 0.1 / 0.096 = 0.0625; a row farther off has all of alpha; a nearer one, and one equal, the least
    a = torch.tensor([[0.9, 0.1]]).expand(4, 2)
    b = torch.tensor([[0.78, 0.22], [0.1, 0.9], [0.88, 0.12], [0.9, 0.1]])
    share = share_of(SkewSettings(adaptive=True, alpha=0.1, gap=0.1), a.log(), b.log())
    assert share[:, 0].tolist() == pytest.approx([0.0625, 0.1, LEAST, LEAST], rel=1e-4)


def test_a_fixed_share_is_alpha() -> None:
    log = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    assert share_of(SkewSettings(alpha=0.3), log, log).tolist() == [[pytest.approx(0.3)]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_adaptive_share_has_no_gradient_of_its_own(kind: type, judged: Judge) -> None:
    # with the share that is found set by hand, the gradient is the same
    first, second = torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.78, 0.22]]))
    settings = SkewSettings(temperature=1, adaptive=True, alpha=0.1, gap=0.1)
    share = float(share_of(settings, first, second))
    assert share == pytest.approx(0.0625, rel=1e-4)
    student, teacher = (second, first) if kind is SkewedForwardKL else (first, second)
    found = judged(kind(settings), student, teacher)
    fixed = judged(kind(kind.Settings(temperature=1, alpha=share)), student, teacher)
    assert found[0] == pytest.approx(fixed[0], rel=1e-5)
    assert found[1].tolist()[0] == pytest.approx(fixed[1].tolist()[0], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_adaptive_rows_do_not_look_at_each_other(kind: type, judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 5, generator=draw) for _ in range(2))
    objective = kind(kind.Settings(adaptive=True))
    together = judged(objective, student, teacher)[1]
    alone = torch.cat([judged(objective, student[row], teacher[row])[1] for row in torch.arange(4)[:, None]])
    assert torch.allclose(together, alone / 4, rtol=1e-5, atol=1e-8)
