"""Compare every objective with a plain slow version in float64, numbers by hand, and masks at the edges."""

from __future__ import annotations

import math

import pytest
import torch

from attar.core.examples import UNKNOWN
from attar.core.rows import Rows, example_rows
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum

NOTHING = torch.full((1,), UNKNOWN)


def _rows(logits: torch.Tensor, weight: torch.Tensor | None = None) -> Rows:
    rows = example_rows(torch.arange(len(logits)), logits)
    return rows if weight is None else Rows(rows.key, weight, logits)


def _kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """Return KL(teacher || student) of one row, written out."""
    p = [math.exp(x / temperature) for x in teacher.tolist()]
    q = [math.exp(x / temperature) for x in student.tolist()]
    return sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_value_is_the_slow_one(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher, weight = torch.randn(5, 4) * 3, torch.randn(5, 4) * 3, torch.rand(5)
    loss = ForwardKL(ForwardKL.Settings(temperature=temperature))(_rows(student, weight), _rows(teacher), NOTHING).total
    slow = sum(w * _kl(s, t, temperature) for w, s, t in zip(weight.tolist(), student, teacher, strict=True))
    assert loss.item() == pytest.approx(temperature**2 * slow / weight.sum().item(), rel=1e-5)


def test_forward_kl_by_hand() -> None:
    # T=2, teacher logits (2 ln 3, 0): p = (3/4, 1/4); student logits (0, 0): q = (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times T^2 = 0.523248.
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    loss = ForwardKL(ForwardKL.Settings(temperature=2))(_rows(torch.zeros(1, 2)), _rows(teacher), NOTHING)
    assert loss.total.item() == pytest.approx(0.523248, abs=1e-6)
    assert float(loss.parts["forward_kl"]) == pytest.approx(0.523248, abs=1e-6)


def test_forward_kl_gradient_by_hand() -> None:
    # d/dz of T^2 KL is T (q - p): here 2 (1/2 - 3/4) = -1/2 and +1/2
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    ForwardKL(ForwardKL.Settings(temperature=2))(_rows(student), _rows(teacher), NOTHING).total.backward()
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([-0.5, 0.5], abs=1e-6)


def test_forward_kl_of_a_choice_that_the_teacher_rules_out() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -math.inf]])
    loss = ForwardKL(ForwardKL.Settings(temperature=1))(_rows(student), _rows(teacher), NOTHING).total
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1.5), rel=1e-6)
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([-1 / 6, -1 / 6, 1 / 3], rel=1e-5)


def test_forward_kl_without_a_teacher_is_a_fault() -> None:
    with pytest.raises(ValueError, match="teacher's rows"):
        ForwardKL(ForwardKL.Settings())(_rows(torch.zeros(1, 2)), None, NOTHING)


def test_large_temperature_turns_into_half_the_squared_distance() -> None:
    # Hinton et al. 2015, equation 4: at high T the gradient is (z - v) / N for zero-meaned logits
    student = torch.tensor([[1.0, -1.0]], requires_grad=True)
    ForwardKL(ForwardKL.Settings(temperature=500))(
        _rows(student), _rows(torch.tensor([[-2.0, 2.0]])), NOTHING
    ).total.backward()
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([3.0 / 2, -3.0 / 2], rel=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_value_is_the_slow_one(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, targets, weight = torch.randn(5, 3) * 2, torch.tensor([0, 2, UNKNOWN, 1, 2]), torch.rand(5)
    settings = CrossEntropy.Settings(label_smoothing=smoothing)
    loss = CrossEntropy(settings)(_rows(logits, weight), None, targets).total
    summed, total = 0.0, 0.0
    for row, target, own in zip(logits.tolist(), targets.tolist(), weight.tolist(), strict=True):
        total += own
        if target == UNKNOWN:
            continue
        logp = [x - math.log(sum(math.exp(y) for y in row)) for x in row]
        hard = [smoothing / 3 + (1 - smoothing) * (place == target) for place in range(3)]
        summed += own * -sum(h * x for h, x in zip(hard, logp, strict=True))
    assert loss.item() == pytest.approx(summed / total, rel=1e-5)


def test_cross_entropy_without_any_target_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = CrossEntropy(CrossEntropy.Settings())(_rows(logits), None, torch.full((2,), UNKNOWN)).total
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_weighted_sum_adds_values_and_gradients() -> None:
    torch.manual_seed(0)
    base, teacher, targets = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1])
    hard, soft = CrossEntropy(CrossEntropy.Settings()), ForwardKL(ForwardKL.Settings(temperature=1))
    gradients = []
    for terms in ([(0.3, hard)], [(0.7, soft)], [(0.3, hard), (0.7, soft)]):
        logits = base.clone().requires_grad_()
        WeightedSum(terms)(_rows(logits), _rows(teacher), targets).total.backward()
        assert logits.grad is not None
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0] + gradients[1], gradients[2], rtol=1e-5)


def test_weighted_sum_never_computes_a_term_of_weight_zero() -> None:
    def fails(*_: object) -> None:
        raise AssertionError("computed")

    fails.needs = frozenset({"logits"})  # type: ignore[attr-defined]
    both = WeightedSum([(0.0, fails), (1.0, CrossEntropy(CrossEntropy.Settings()))])  # type: ignore[list-item]
    assert both.needs == {"hard"}
    assert both(_rows(torch.zeros(1, 2)), None, torch.tensor([0])).total.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("terms", [[], [(0.0, CrossEntropy(CrossEntropy.Settings()))]])
def test_weighted_sum_of_nothing_is_refused(terms: list[tuple[float, CrossEntropy]]) -> None:
    with pytest.raises(ValueError, match="at least one weight above 0"):
        WeightedSum(terms)
