"""Mixtures in the logarithm keep what is too small for its type."""

from __future__ import annotations

import math

import pytest
import torch

from attar.objectives.mixture import mix, ratios


def test_a_mixture_of_tiny_probabilities_keeps_its_digits() -> None:
    log_p, log_q = torch.tensor([[-200.0]]), torch.tensor([[-201.0]])
    expected = -200 + math.log(0.25 + 0.75 * math.exp(-1))
    assert mix(log_p, log_q, torch.tensor(0.25)).item() == pytest.approx(expected, rel=1e-6)


def test_what_one_rules_out_is_the_others_share_and_has_a_gradient() -> None:
    log_q = torch.tensor([[0.0]], requires_grad=True)
    mixed = mix(torch.tensor([[-math.inf]]), log_q, torch.tensor([[0.1]]))
    mixed.sum().backward()
    assert mixed.item() == pytest.approx(math.log(0.9))
    assert log_q.grad is not None
    assert log_q.grad.item() == pytest.approx(1.0)


def test_ratios_of_nothing_are_nothing() -> None:
    assert ratios(torch.tensor([-math.inf, 0.0]), torch.tensor([-math.inf, 0.0])).tolist() == [0.0, 0.0]
