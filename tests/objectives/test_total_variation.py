"""Total variation by hand, its bound, and how it goes with the temperature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.total_variation import TotalVariation

Judge = Callable[..., tuple[float, torch.Tensor]]


def _tv(temperature: float) -> TotalVariation:
    return TotalVariation(TotalVariation.Settings(temperature=temperature))


def test_by_hand(judged: Judge) -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 1/2 (1/4 + 1/4); d/dz = 1/2 (-1, 1) through q (1 - q) = 1/4, both ways
    value, gradient = judged(_tv(1), torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))
    assert value == pytest.approx(0.25)
    assert gradient.tolist()[0] == pytest.approx([-0.25, 0.25])


def test_opposites_are_one_apart(judged: Judge) -> None:
    assert judged(_tv(1), torch.tensor([[-99.0, 0.0]]), torch.tensor([[0.0, -math.inf]]))[0] == pytest.approx(1)


def test_the_gradient_grows_with_the_temperature(judged: Judge) -> None:
    student = torch.zeros(1, 4, dtype=torch.float64)
    teacher = torch.tensor([[2e-3, 1e-3, -1e-3, -2e-3]], dtype=torch.float64)
    cold, warm = judged(_tv(1), student, teacher)[1], judged(_tv(4), student, teacher)[1]
    assert warm.tolist()[0] == pytest.approx((4 * cold).tolist()[0], rel=1e-3, abs=1e-6)
