"""The squared error of logits by hand, with and without centering, and as the limit of KL."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.objectives.forward_kl import ForwardKL
from attar.objectives.logit_mse import LogitMSE

Judge = Callable[..., tuple[float, torch.Tensor]]


def _mse(center: bool) -> LogitMSE:
    return LogitMSE(LogitMSE.Settings(center=center))


def test_by_hand(judged: Judge) -> None:
    # differences (1, 3, 5): mean square 35/3; centered (-2, 0, 2): 8/3
    student, teacher = torch.tensor([[2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    value, gradient = judged(_mse(False), student, teacher)
    assert value == pytest.approx(35 / 3)
    assert gradient.tolist()[0] == pytest.approx([2 / 3, 2, 10 / 3])
    value, gradient = judged(_mse(True), student, teacher)
    assert value == pytest.approx(8 / 3)
    assert gradient.tolist()[0] == pytest.approx([-4 / 3, 0, 4 / 3])


def test_a_constant_in_all_logits_counts_only_without_centering(judged: Judge) -> None:
    teacher = torch.tensor([[1.0, 2.0]])
    assert judged(_mse(True), teacher + 3, teacher)[0] == pytest.approx(0, abs=1e-12)
    assert judged(_mse(False), teacher + 3, teacher)[0] == pytest.approx(9)


@pytest.mark.parametrize("center", [True, False])
def test_a_ruled_out_choice_is_left_out(center: bool, judged: Judge) -> None:
    student, teacher = torch.tensor([[2.0, 9.0, 4.0]]), torch.tensor([[1.0, -math.inf, -1.0]])
    value, gradient = judged(_mse(center), student, teacher)
    pair, exact = judged(_mse(center), student[:, [0, 2]], teacher[:, [0, 2]])
    assert value == pytest.approx(pair)
    assert gradient.tolist()[0] == pytest.approx([exact[0, 0].item(), 0.0, exact[0, 1].item()])


def test_half_of_it_is_the_limit_of_forward_kl(judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    warm = judged(ForwardKL(ForwardKL.Settings(temperature=1000)), student, teacher)
    plain = judged(_mse(True), student, teacher)
    assert warm[0] == pytest.approx(plain[0] / 2, rel=5e-3)
    assert (warm[1] - plain[1] / 2).norm() <= 5e-3 * warm[1].norm()


def test_a_record_of_a_part_is_a_fault(recorded: Callable[..., object]) -> None:
    from attar.core.rows import example_rows

    with pytest.raises(ValueError, match="a part of the distribution"):
        _mse(True)(example_rows(torch.arange(2), torch.zeros(2, 5)), recorded(torch.zeros(2, 5), 2), torch.zeros(2))  # type: ignore[arg-type]
