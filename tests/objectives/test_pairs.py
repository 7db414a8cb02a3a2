"""A record of the likeliest choices teaches what the live teacher does, as far as it goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.rows import Rows, Top, example_rows
from attar.objectives.pairs import LEAST, both, has, parted, softened

Make = Callable[..., Rows]
NONE = torch.full((6,), -100)
TOP = [
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "total_variation",
]
"""The objectives that compare k + 1 buckets."""


def _objective(name: str, **settings: Any) -> Any:
    kind = catalog.entry("objective", name)
    return kind(kind.Settings(**settings))


def _inputs(choices: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, choices, generator=draw) * 2 for _ in range(2))
    return student, teacher, torch.rand(6, generator=draw) + 0.1


def _gradient(objective: Any, logits: torch.Tensor, teacher: Rows, weight: torch.Tensor) -> tuple[float, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    loss = objective(replace(example_rows(torch.arange(6), logits), weight=weight), teacher, NONE)
    loss.total.backward()
    assert logits.grad is not None
    return loss.total.item(), logits.grad


def _apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", [*TOP, "ranking"])
def test_a_record_of_all_but_one_choice_equals_the_live_teacher(name: str, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    live = _gradient(_objective(name), student, example_rows(torch.arange(6), teacher), weight)
    stored = _gradient(_objective(name), student, recorded(teacher, 10), weight)
    assert stored[0] == pytest.approx(live[0], rel=1e-5)
    assert _apart(stored[1], live[1]) <= 1e-5


@pytest.mark.parametrize("name", [*TOP, "ranking"])
def test_a_record_of_every_choice_equals_the_live_teacher_and_stays_a_number(name: str, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    live = _gradient(_objective(name), student, example_rows(torch.arange(6), teacher), weight)
    stored = _gradient(_objective(name), student, recorded(teacher, 11), weight)
    assert stored[0] == pytest.approx(live[0], rel=1e-5)
    assert _apart(stored[1], live[1]) <= 1e-5


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", TOP)
def test_a_record_of_few_choices_compares_them_and_the_rest(name: str, temperature: float, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    objective = _objective(name, temperature=temperature)
    value, gradient = _gradient(objective, student, recorded(teacher, 3), weight)
    exact = student.double().requires_grad_()
    buckets = [_buckets(part / temperature, teacher.topk(3).indices) for part in (exact, teacher.double())]
    # logits whose softmax at this temperature are the probabilities of the buckets
    ours, theirs = (temperature * part.log() for part in buckets)
    slow = objective(
        replace(example_rows(torch.arange(6), ours), weight=weight.double()),
        example_rows(torch.arange(6), theirs),
        NONE,
    )
    slow.total.backward()
    assert exact.grad is not None
    assert value == pytest.approx(slow.total.item(), rel=1e-5)
    assert _apart(gradient, exact.grad.float()) <= 1e-5


def _buckets(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    p = scores.softmax(-1)
    kept = p.gather(-1, ids)
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], dim=-1)


@pytest.mark.parametrize("name", TOP)
def test_what_is_inside_the_rest_is_not_compared(name: str, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    whole = _gradient(_objective(name), student, example_rows(torch.arange(6), teacher), weight)[0]
    part = _gradient(_objective(name), student, recorded(teacher, 3), weight)[0]
    assert 0 < part < whole


@pytest.mark.parametrize("name", TOP)
def test_a_student_equal_to_a_recorded_teacher_is_left_alone(name: str, recorded: Make) -> None:
    _, teacher, weight = _inputs()
    value, gradient = _gradient(_objective(name), teacher.double(), recorded(teacher.double(), 3), weight.double())
    assert abs(value) < 1e-12
    # total variation has slope 1/2 wherever rounding leaves a difference
    assert name == "total_variation" or gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", [*TOP, "ranking"])
def test_a_student_with_more_padding_than_the_record(name: str, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    value, gradient = _gradient(_objective(name), student, recorded(teacher, 4), weight)
    wider = torch.cat([student, torch.full((6, 2), 9.0)], dim=-1)
    padded, wide = _gradient(_objective(name), wider, recorded(teacher, 4), weight)
    assert padded == pytest.approx(value, rel=1e-6)
    assert _apart(wide[:, :11], gradient) <= 1e-6
    assert (wide[:, 11:] == 0).all()


@pytest.mark.parametrize("name", [*TOP, "ranking"])
def test_a_kept_choice_that_the_student_lacks_counts_to_the_rest(name: str, recorded: Make) -> None:
    student, teacher, weight = _inputs()
    objective = _objective(name, **({"top": 3} if name == "ranking" else {}))
    teacher[:, 10] = teacher.max(dim=-1).values + 1
    top, narrow = recorded(teacher, 4).top, student[:, :10]
    assert top is not None
    assert (top.ids[:, 0] == 10).all()
    fewer = Top(top.ids[:, 1:], top.log_p[:, 1:], _with_first(top), 10)
    for lacks in (top.ids, torch.where(top.ids == 10, -1, top.ids)):
        record = Rows(*_place(), top=replace(top, ids=lacks))
        found = _gradient(objective, narrow, record, weight)
        exact = _gradient(objective, narrow, Rows(*_place(), top=fewer), weight)
        assert found[0] == pytest.approx(exact[0], rel=1e-5)
        assert _apart(found[1], exact[1]) <= 1e-5


def _place() -> tuple[torch.Tensor, torch.Tensor]:
    rows = example_rows(torch.arange(6), torch.zeros(6, 1))
    return rows.key, rows.weight


def _with_first(top: Top) -> dict[float, torch.Tensor]:
    """Return the log-probability of the first choice and the rest together, at each temperature."""
    return {value: torch.logaddexp(rest, top.softened(value)[0][:, 0]) for value, rest in top.rest.items()}


def test_a_record_that_lacks_the_temperature_is_a_fault(recorded: Make) -> None:
    student, teacher, _ = _inputs()
    with pytest.raises(ValueError, match="temperatures 1, 2, and 3 is asked for"):
        softened(example_rows(torch.arange(6), student), recorded(teacher, 3), 3.0)


def test_scores_of_float64_stay_float64(recorded: Make) -> None:
    student, teacher, _ = _inputs()
    rows = example_rows(torch.arange(6), student.double())
    log_p, log_q = softened(rows, recorded(teacher.double(), 3), 2.0)
    assert log_p.dtype == log_q.dtype == torch.float64
    exact = (teacher.double() / 2).log_softmax(-1).gather(-1, teacher.topk(3).indices)
    assert torch.allclose(log_p[:, :3], exact, rtol=1e-12)


def test_both_takes_the_shared_choices() -> None:
    ours, theirs = both(
        example_rows(torch.arange(2), torch.zeros(2, 5)), example_rows(torch.arange(2), torch.ones(2, 3).bfloat16())
    )
    assert ours.shape == theirs.shape == (2, 3)
    assert theirs.dtype == torch.float32


def test_parted_by_hand() -> None:
    scores = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    ids = torch.tensor([[3, -1, 4]])
    kept, rest = parted(scores, ids)
    assert has(scores, ids).tolist() == [[True, False, False]]
    assert kept[0, 0].exp().item() == pytest.approx(4)
    assert kept[0, 1:].tolist() == pytest.approx([LEAST, LEAST])
    assert rest.exp().item() == pytest.approx(6)  # 1 + 2 + 3


@pytest.mark.parametrize("name", [*TOP, "ranking", "logit_mse", "dkd", "dist", "standardized_kl"])
def test_weights_of_the_teachers_rows_do_not_count_a_second_time(name: str) -> None:
    student, teacher, weight = _inputs()
    said = example_rows(torch.arange(6), teacher)
    plain = _gradient(_objective(name), student, said, weight)
    again = _gradient(_objective(name), student, replace(said, weight=weight), weight)
    assert again[0] == plain[0]
    assert torch.equal(again[1], plain[1])


def test_parted_where_the_student_rules_choices_out() -> None:
    scores = torch.tensor([[float("-inf"), 1.0, 2.0, 0.5], [3.0, 1.0, float("-inf"), float("-inf")]]).requires_grad_()
    kept, rest = parted(scores, torch.tensor([[1], [0]]))
    assert rest[:, 0].tolist() == pytest.approx([math.log(math.exp(2.0) + math.exp(0.5)), 1.0], rel=1e-6)
    (gradient,) = torch.autograd.grad(kept.sum() + rest.sum(), scores)
    share = 1 / (1 + math.exp(-1.5))
    assert gradient[0].tolist() == pytest.approx([0.0, 1.0, share, 1 - share], abs=1e-6)
    assert gradient[1].tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-6)
    nothing, left = parted(torch.tensor([[1.0, float("-inf")]]), torch.tensor([[0]]))
    assert (float(nothing), float(left)) == (1.0, float("-inf"))


@pytest.mark.parametrize("masked", [-1e30, -1e9, -1e5, 1e9])
def test_parted_where_a_choice_is_far_from_the_others(masked: float) -> None:
    scores = torch.tensor([[masked, 1.0, 2.0, 0.5]], requires_grad=True)
    ids = torch.tensor([[1]])
    rest = parted(scores, ids)[1]
    exact = scores.detach().double().scatter(-1, ids, float("-inf"))
    assert rest.item() == pytest.approx(exact.logsumexp(-1).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(rest.sum(), scores)
    assert gradient[0].tolist() == pytest.approx(exact.softmax(-1)[0].tolist(), abs=1e-6)
