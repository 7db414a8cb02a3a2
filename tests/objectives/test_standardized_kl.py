"""Standardized logits: by hand, blind to shift and scale, and calm where nothing varies."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.standardized_kl import StandardizedKL, standardize

Judge = Callable[..., tuple[float, torch.Tensor]]
KL = StandardizedKL(StandardizedKL.Settings(temperature=1))


def test_by_hand(judged: Judge) -> None:
    # two choices standardize to (-1, 1) or (1, -1): p = 1 / (1 + e^-2) = 0.880797, KL = (2 p - 1) * 2 = 1.523188
    value = judged(KL, torch.tensor([[7.0, 3.0]]), torch.tensor([[0.0, 9.0]]))[0]
    assert value == pytest.approx(1.523188, abs=1e-5)


def test_shift_and_scale_of_either_do_not_matter(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    value = judged(KL, student, teacher)[0]
    assert judged(KL, 7 * student - 3, teacher)[0] == pytest.approx(value, rel=1e-9)
    assert judged(KL, student, 0.1 * teacher + 5)[0] == pytest.approx(value, rel=1e-9)


def test_a_row_of_equal_logits_has_a_gradient_that_is_a_number(judged: Judge) -> None:
    teacher = torch.tensor([[0.0, 1.0, 2.0]])
    value, gradient = judged(KL, torch.full((1, 3), 4.0), teacher)
    p = standardize(teacher).softmax(-1)
    assert value == pytest.approx(float((p * (3 * p).log()).sum()), rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_a_ruled_out_choice_counts_neither_in_mean_nor_in_deviation() -> None:
    found = standardize(torch.tensor([[1.0, -math.inf, 3.0]]))
    assert found.tolist() == [[-1.0, -math.inf, 1.0]]
