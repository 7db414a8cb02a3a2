"""The teacher's order of its best choices: by hand, ties, and what a record keeps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attar.core.rows import Rows, example_rows
from attar.objectives.ranking import Ranking

Judge = Callable[..., tuple[float, torch.Tensor]]
KINDS = ["listwise", "pairwise", "margin"]
TEACHER = torch.tensor([[3.0, 1.0, 2.0, -5.0]])
STUDENT = torch.log(torch.tensor([[2.0, 3.0, 1.0, 4.0]]))


def _ranking(kind: str, top: int = 3, margin: float = 1.0) -> Ranking:
    return Ranking(Ranking.Settings(kind=kind, top=top, margin=margin))  # type: ignore[arg-type]


def test_listwise_by_hand(judged: Judge) -> None:
    # order 0, 2, 1: 2/10, then 1/8, then 3/7 of what is left
    value = judged(_ranking("listwise"), STUDENT, TEACHER)[0]
    assert value == pytest.approx(-(math.log(0.2) + math.log(1 / 8) + math.log(3 / 7)) / 3, rel=1e-5)


def test_listwise_of_one_is_cross_entropy_with_the_teachers_choice(judged: Judge) -> None:
    value, gradient = judged(_ranking("listwise", top=1), STUDENT, TEACHER)
    assert value == pytest.approx(-math.log(0.2), rel=1e-5)
    assert gradient.tolist()[0] == pytest.approx([-0.8, 0.3, 0.1, 0.4], rel=1e-5)


def test_pairwise_by_hand(judged: Judge) -> None:
    # pairs (0, 2), (0, 1), (2, 1): odds 2 : 1, 2 : 3, 1 : 3
    value = judged(_ranking("pairwise"), STUDENT, TEACHER)[0]
    assert value == pytest.approx(-(math.log(2 / 3) + math.log(2 / 5) + math.log(1 / 4)) / 3, rel=1e-5)


def test_margin_by_hand(judged: Judge) -> None:
    # 0.5 - ln 2 < 0, 0.5 + ln(3/2), 0.5 + ln 3; a satisfied pair has no gradient
    value, gradient = judged(_ranking("margin", margin=0.5), STUDENT, TEACHER)
    assert value == pytest.approx((1.0 + math.log(1.5) + math.log(3)) / 3, rel=1e-5)
    assert gradient.tolist()[0] == pytest.approx([-1 / 3, 2 / 3, -1 / 3, 0.0], rel=1e-5)


def test_choices_scored_alike_are_no_pair(judged: Judge) -> None:
    value, gradient = judged(_ranking("pairwise", top=2), torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 2.0]]))
    assert value == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ruled_out_choice_takes_no_place(kind: str, judged: Judge) -> None:
    ruled = torch.tensor([[3.0, 1.0, 2.0, -math.inf]])
    found, exact = judged(_ranking(kind, top=4), STUDENT, ruled), judged(_ranking(kind, top=3), STUDENT, TEACHER)
    assert found[0] == pytest.approx(exact[0], rel=1e-6)
    assert torch.allclose(found[1], exact[1], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_how_far_apart_choices_are_does_not_count(kind: str, judged: Judge) -> None:
    near = judged(_ranking(kind), STUDENT, TEACHER)
    far = judged(_ranking(kind), STUDENT, torch.tensor([[90.0, 0.1, 7.0, 0.0]]))
    assert near[0] == far[0]
    assert torch.equal(near[1], far[1])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_slow_version(kind: str, judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    value, gradient = judged(_ranking(kind, top=4), student, teacher)
    z, order = student[0].clone().requires_grad_(), teacher[0].argsort(descending=True)[:4].tolist()
    if kind == "listwise":
        left = [[j for j in range(9) if j not in order[:i]] for i in range(4)]
        terms = [torch.log(sum(z[j].exp() for j in left[i])) - z[order[i]] for i in range(4)]  # type: ignore[arg-type]
    else:
        apart = [z[order[i]] - z[order[j]] for i in range(4) for j in range(i + 1, 4)]
        terms = [torch.log1p(torch.exp(-x)) if kind == "pairwise" else torch.relu(1 - x) for x in apart]
    slow = sum(terms) / len(terms)
    slow.backward()  # type: ignore[union-attr]
    assert z.grad is not None
    assert value == pytest.approx(slow.item(), rel=1e-9)  # type: ignore[union-attr]
    assert torch.allclose(gradient[0], z.grad, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [4, 7, 9])
def test_a_record_with_enough_choices_equals_the_live_teacher(
    kind: str, k: int, judged: Judge, recorded: Callable[..., Rows]
) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 9, generator=draw) for _ in range(2))
    live, exact = judged(_ranking(kind, top=4), student, teacher)
    logits = student.clone().requires_grad_()
    rows = example_rows(torch.arange(5), logits)
    loss = _ranking(kind, top=4)(rows, recorded(teacher, k), torch.zeros(5)).total
    loss.backward()
    assert loss.item() == pytest.approx(live, rel=1e-6)
    assert torch.allclose(logits.grad, exact, rtol=1e-5, atol=1e-8)  # type: ignore[arg-type]


def test_a_record_with_fewer_choices_ranks_what_it_has(judged: Judge, recorded: Callable[..., Rows]) -> None:
    rows = example_rows(torch.arange(1), STUDENT)
    loss = _ranking("listwise", top=3)(rows, recorded(TEACHER, 2), torch.zeros(1)).total
    assert loss.item() == pytest.approx(judged(_ranking("listwise", top=2), STUDENT, TEACHER)[0], rel=1e-6)
