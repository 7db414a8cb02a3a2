"""Decoupled distillation: by hand, its sum to forward KL, and which choice is the target."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.core.examples import UNKNOWN
from attar.objectives.dkd import DecoupledKD
from attar.objectives.forward_kl import ForwardKL

Judge = Callable[..., tuple[float, torch.Tensor]]


def _dkd(alpha: float, beta: float, temperature: float = 1.0) -> DecoupledKD:
    return DecoupledKD(DecoupledKD.Settings(alpha=alpha, beta=beta, temperature=temperature))


def test_by_hand(judged: Judge) -> None:
    # p = (1/2, 3/8, 1/8), q = (1/3, 1/3, 1/3), target 0
    # TCKD = 1/2 ln(3/2) + 1/2 ln(3/4) = 0.0588915; NCKD: (3/4, 1/4) against (1/2, 1/2) = 0.1308120
    teacher, student, target = torch.log(torch.tensor([[4.0, 3.0, 1.0]])), torch.zeros(1, 3), torch.tensor([0])
    assert judged(_dkd(1, 0), student, teacher, target)[0] == pytest.approx(0.0588915, abs=1e-6)
    assert judged(_dkd(0, 1), student, teacher, target)[0] == pytest.approx(0.1308120, abs=1e-6)
    assert judged(_dkd(2, 8), student, teacher, target)[0] == pytest.approx(2 * 0.0588915 + 8 * 0.130812, abs=1e-5)


def test_with_the_others_weighed_by_their_probability_it_is_forward_kl(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    target = torch.tensor([3])
    left = 1 - float((teacher / 2).softmax(-1)[0, 3])
    value, gradient = judged(_dkd(1, left, 2), student, teacher, target)
    whole, exact = judged(ForwardKL(ForwardKL.Settings(temperature=2)), student, teacher)
    assert value == pytest.approx(whole, rel=1e-9)
    assert torch.allclose(gradient, exact, rtol=1e-9)


def test_without_a_target_the_teachers_likeliest_choice_is_taken(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=draw) for _ in range(2))
    likeliest = teacher.argmax(-1)
    unknown = judged(_dkd(1, 8), student, teacher, torch.full((3,), UNKNOWN))
    named = judged(_dkd(1, 8), student, teacher, likeliest)
    other = judged(_dkd(1, 8), student, teacher, (likeliest + 1) % 5)
    assert unknown[0] == named[0]
    assert torch.equal(unknown[1], named[1])
    assert other[0] != pytest.approx(named[0], rel=1e-3)


def test_a_sure_teacher_still_teaches_the_others(judged: Judge) -> None:
    # p_target is 1 to all digits; the others stand 3 : 1
    teacher = torch.tensor([[60.0, math.log(3.0), 0.0]])
    value, gradient = judged(_dkd(0, 1), torch.zeros(1, 3), teacher, torch.tensor([0]))
    assert value == pytest.approx(0.1308120, abs=1e-6)
    assert gradient.tolist()[0] == pytest.approx([0.0, -0.25, 0.25], abs=1e-6)


@pytest.mark.parametrize("row", [[0.0, -math.inf, -math.inf], [-math.inf, 0.0, 1.0]])
def test_a_teacher_that_rules_out_the_target_or_all_others(row: list[float], judged: Judge) -> None:
    value, gradient = judged(_dkd(1, 8), torch.zeros(1, 3), torch.tensor([row]), torch.tensor([0]))
    assert 0 < value < 10
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("choices", [1, 2])
def test_two_choices_have_no_others_to_compare(choices: int, judged: Judge) -> None:
    student, teacher = torch.tensor([[0.0, 2.0]])[:, :choices], torch.tensor([[1.0, 0.0]])[:, :choices]
    value, gradient = judged(_dkd(0, 8), student, teacher, torch.tensor([0]))
    assert value == 0.0
    assert (gradient == 0).all()
