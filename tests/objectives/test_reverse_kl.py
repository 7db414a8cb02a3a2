"""Reverse KL by hand, and what the teacher rules out costs much, not infinitely much."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.reverse_kl import FLOOR, ReverseKL

Judge = Callable[..., tuple[float, torch.Tensor]]


def _kl(temperature: float) -> ReverseKL:
    return ReverseKL(ReverseKL.Settings(temperature=temperature))


def test_by_hand(judged: Judge) -> None:
    # q = (1/2, 1/2), p = (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = 0.143841; T = 2 with twice the logits: times 4
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert judged(_kl(1), torch.zeros(1, 2), teacher)[0] == pytest.approx(0.143841, abs=1e-6)
    assert judged(_kl(2), torch.zeros(1, 2), 2 * teacher)[0] == pytest.approx(4 * 0.143841, abs=1e-6)


def test_gradient_by_hand(judged: Judge) -> None:
    # d/dz_i = q_i (ln(q_i / p_i) - KL): 1/2 (ln(2/3) - 0.143841), and its negative
    gradient = judged(_kl(1), torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))[1]
    assert gradient.tolist()[0] == pytest.approx([-0.274653, 0.274653], abs=1e-6)


def test_what_the_teacher_rules_out_costs_its_floor(judged: Judge) -> None:
    # q = (1/2, 1/2), p = (1, 0): 1/2 ln(1/2) + 1/2 (ln(1/2) - FLOOR)
    value, gradient = judged(_kl(1), torch.zeros(1, 2), torch.tensor([[0.0, -math.inf]]))
    assert value == pytest.approx(math.log(0.5) - FLOOR / 2, rel=1e-6)
    assert gradient[0, 1] > 10


def test_what_the_student_rules_out_has_no_gradient(judged: Judge) -> None:
    value, gradient = judged(_kl(1), torch.tensor([[0.0, -math.inf]]), torch.zeros(1, 2))
    assert value == pytest.approx(math.log(2))
    assert gradient.tolist() == [[0.0, 0.0]]
