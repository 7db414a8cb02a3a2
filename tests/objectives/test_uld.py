from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.core.rows import Head, Rows, Top
from attar.objectives.blocks import Sizes, evaluate
from attar.objectives.uld import UniversalLogitDistillation

TARGETS = torch.zeros(5, dtype=torch.long)


def _uld(**chosen: Any) -> UniversalLogitDistillation:
    return UniversalLogitDistillation(UniversalLogitDistillation.Settings(**chosen))


def _rows(scores: torch.Tensor, weight: Sequence[float] | None = None) -> Rows:
    key = torch.stack([torch.arange(len(scores)), torch.zeros(len(scores), dtype=torch.long)], dim=1)
    return Rows(key, torch.tensor(weight) if weight else torch.ones(len(scores)), scores)


def _probabilities(*rows: Sequence[float]) -> Rows:
    return _rows(torch.tensor(rows).log())


def _top(scores: torch.Tensor, k: int, lost: Sequence[int] = (), temperature: float = 1.0) -> Top:
    """Return the k likeliest and the rest; the choices ``lost`` are none of the student's."""
    ids = scores.topk(k, dim=-1).indices
    others = scores.scatter(-1, ids, float("-inf"))
    rest = {t: (others / t).logsumexp(-1) - (scores / t).logsumexp(-1) for t in (1.0, temperature)}
    known = ids.masked_fill(torch.isin(ids, torch.tensor(lost, dtype=torch.long)), -1)
    return Top(known, torch.log_softmax(scores, -1).gather(-1, ids), rest, scores.shape[-1])


def _with(rows: Rows, top: Top) -> Rows:
    return replace(rows, logits=None, top=top)


def _loss(objective: Any, student: Rows, teacher: Rows) -> tuple[float, torch.Tensor]:
    logits = student.dense().clone().requires_grad_()
    loss = objective(replace(student, logits=logits), teacher, torch.zeros(len(student), dtype=torch.long)).total
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), gradient


def _slow(
    student: torch.Tensor, teacher: Rows, settings: UniversalLogitDistillation.Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss over rows of weight 1, and the student's scores in float64 that it was made of."""
    exact, total = student.double().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for row in range(len(student)):
        q = torch.exp(exact[row] / settings.temperature) / torch.exp(exact[row] / settings.temperature).sum()
        if teacher.top is None:
            scores = teacher.dense()[row].double() / settings.temperature
            p, ids, rest = torch.exp(scores) / torch.exp(scores).sum(), list(range(len(scores))), None
        else:
            kept, left = teacher.top.softened(settings.temperature)
            p, ids, rest = kept[row].double().exp(), teacher.top.ids[row].tolist(), left[row].double().exp()
        matched = [(i, v) for i, v in enumerate(ids) if settings.hybrid and 0 <= v < len(q)]
        lost = sorted((p[i] for i in range(len(p)) if i not in dict(matched)), reverse=True)
        free = sorted((q[v] for v in range(len(q)) if v not in [v for _, v in matched]), reverse=True)
        count = len(lost) if rest is not None else max(len(lost), len(free))
        zero = torch.zeros((), dtype=torch.float64)
        pairs = [(lost[i] if i < len(lost) else zero, free[i] if i < len(free) else zero) for i in range(count)]
        by_rank = sum((abs(a - b) for a, b in pairs), start=zero)
        if rest is not None:
            by_rank = by_rank + abs(rest - sum(free[count:], start=zero))
        by_id = sum((abs(p[i] - q[v]) for i, v in matched), start=zero)
        total = total + settings.matched_weight * by_id + settings.unmatched_weight * by_rank
    return settings.temperature * total / len(student), exact


def _agree(objective: Any, student: torch.Tensor, teacher: Rows) -> None:
    value, gradient = _loss(objective, _rows(student), teacher)
    total, exact = _slow(student, teacher, objective.settings)
    total.backward()
    assert value == pytest.approx(total.item(), rel=1e-5)
    assert (gradient - exact.grad).norm() <= 1e-5 * exact.grad.norm() + 1e-6  # type: ignore[operator, union-attr]


def test_distance_by_hand() -> None:
    # sorted: .5 .3 .2 against .7 .3: |.5 - .7| + |.3 - .3| + .2
    loss = _uld()(_probabilities([0.3, 0.7]), _probabilities([0.3, 0.2, 0.5]), TARGETS[:1])
    assert float(loss.total) == pytest.approx(0.4, abs=1e-6)
    assert loss.parts == {"uld": pytest.approx(0.4, abs=1e-6)}


def test_distance_is_the_same_whichever_vocabulary_is_longer() -> None:
    first, second = _probabilities([0.3, 0.7]), _probabilities([0.3, 0.2, 0.5])
    assert float(_uld()(second, first, TARGETS[:1]).total) == pytest.approx(0.4, abs=1e-6)


def test_gradient_by_hand() -> None:
    # q = (.7, .3), p = (.5, .5): Σ|p - q| = 2 (q₁ - .5), so its slope in the first score is 2 · .7 · .3
    value, gradient = _loss(_uld(), _probabilities([0.7, 0.3]), _probabilities([0.5, 0.5]))
    assert value == pytest.approx(0.4, abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([0.42, -0.42], abs=1e-6)


def test_likeliest_and_rest_by_hand() -> None:
    # the teacher keeps .6 and .1 of which the rest is .3; the student's likeliest are .5 and .25, its rest .25
    top = Top(torch.tensor([[70, 3]]), torch.tensor([[0.6, 0.1]]).log(), {1.0: torch.tensor([0.3]).log()}, 99)
    teacher = _with(_rows(torch.zeros(1, 1)), top)
    loss = _uld()(_probabilities([0.25, 0.15, 0.5, 0.1]), teacher, TARGETS[:1])
    assert float(loss.total) == pytest.approx(0.1 + 0.15 + 0.05, abs=1e-6)


def test_hybrid_by_hand() -> None:
    # choice 2 is .5 with both; the teacher's other, .2, is none of the student's, whose likeliest other is .3
    top = Top(torch.tensor([[2, -1]]), torch.tensor([[0.4, 0.2]]).log(), {1.0: torch.tensor([0.4]).log()}, 4)
    student, teacher = _probabilities([0.3, 0.05, 0.5, 0.15]), _with(_rows(torch.zeros(1, 1)), top)
    loss = _uld(hybrid=True, matched_weight=3, unmatched_weight=2)(student, teacher, TARGETS[:1])
    assert float(loss.parts["uld_matched"]) == pytest.approx(0.1, abs=1e-6)
    assert float(loss.parts["uld_unmatched"]) == pytest.approx(0.1 + abs(0.4 - 0.2), abs=1e-6)
    assert float(loss.total) == pytest.approx(3 * 0.1 + 2 * 0.3, abs=1e-6)


def test_renaming_the_choices_changes_nothing_but_in_a_hybrid() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    order = torch.randperm(7)
    plain = _loss(_uld(), _rows(student), _rows(teacher))[0]
    assert _loss(_uld(), _rows(student[:, order]), _rows(teacher))[0] == pytest.approx(plain, rel=1e-5)
    hybrid = _loss(_uld(hybrid=True), _rows(student), _rows(teacher))[0]
    assert hybrid > plain  # of all ways to pair two distributions, rank by rank is the nearest
    assert _loss(_uld(hybrid=True), _rows(student[:, order]), _rows(teacher))[0] != pytest.approx(hybrid, rel=1e-2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ours=st.integers(1, 9),
    theirs=st.integers(2, 9),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    hybrid=st.booleans(),
)
def test_value_and_gradient_equal_the_slow_version(
    seed: int, ours: int, theirs: int, temperature: float, hybrid: bool
) -> None:
    if hybrid:
        theirs = max(2, ours)  # choice by choice over the same choices
        ours = theirs
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(4, ours, generator=random), torch.randn(4, theirs, generator=random)
    _agree(_uld(temperature=temperature, hybrid=hybrid), student, _rows(teacher))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ours=st.integers(2, 12),
    k=st.integers(1, 11),
    temperature=st.sampled_from([1.0, 2.0]),
    hybrid=st.booleans(),
)
def test_value_and_gradient_of_the_likeliest_equal_the_slow_version(
    seed: int, ours: int, k: int, temperature: float, hybrid: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    student, scores = torch.randn(4, ours, generator=random), torch.randn(4, 12, generator=random)
    teacher = _with(_rows(scores), _top(scores, k, lost=(1, 4, 8), temperature=2.0))
    chosen = {"matched_weight": 0.5, "unmatched_weight": 2.0} if hybrid else {}
    _agree(_uld(temperature=temperature, hybrid=hybrid, **chosen), student, teacher)


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_student_that_says_the_same_has_no_loss(hybrid: bool) -> None:
    torch.manual_seed(1)
    scores = torch.randn(5, 9)
    value, gradient = _loss(_uld(hybrid=hybrid), _rows(scores), _rows(scores))
    assert value == 0.0
    assert (gradient == 0).all()
    teacher = _with(_rows(scores), _top(scores, 4))
    assert _loss(_uld(hybrid=hybrid), _rows(scores), teacher)[0] == pytest.approx(0.0, abs=1e-6)


def test_all_choices_kept_equal_scores_of_all() -> None:
    torch.manual_seed(2)
    student, scores = torch.randn(5, 6), torch.randn(5, 8)
    whole = _loss(_uld(), _rows(student), _rows(scores))
    kept = _loss(_uld(), _rows(student), _with(_rows(scores), _top(scores, 7)))
    assert kept[0] == pytest.approx(whole[0], rel=1e-4)
    assert torch.allclose(kept[1], whole[1], atol=1e-5)


def test_a_row_counts_as_both_weights_say() -> None:
    student = replace(_probabilities([0.7, 0.3], [0.9, 0.1]), weight=torch.tensor([1.0, 3.0]))
    teacher = replace(_probabilities([0.5, 0.5], [0.5, 0.5]), weight=torch.tensor([0.5, 1.0]))
    # distances .4 and .8
    value, _ = _loss(_uld(), student, teacher)
    assert value == pytest.approx((0.5 * 0.4 + 3 * 0.8) / 4, abs=1e-6)


def test_a_row_that_the_teacher_does_not_weigh_has_no_gradient() -> None:
    teacher = replace(_probabilities([0.5, 0.5], [0.5, 0.5]), weight=torch.tensor([0.0, 1.0]))
    value, gradient = _loss(_uld(), _probabilities([0.7, 0.3], [0.9, 0.1]), teacher)
    assert value == pytest.approx(0.8 / 2, abs=1e-6)
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).all()


@pytest.mark.parametrize("form", ["logits", "top"])
def test_blocks_of_rows_give_the_loss_of_all(form: str) -> None:
    torch.manual_seed(3)
    hidden, head = torch.randn(7, 4), torch.randn(9, 4)
    scores = torch.randn(7, 12)
    teacher = replace(_rows(scores), weight=torch.tensor([1.0, 0, 1, 0.5, 0, 1, 1]))
    teacher = _with(teacher, _top(scores, 5, lost=(2, 3))) if form == "top" else teacher
    found = []
    for sizes in (None, Sizes(block=3, part=2, tile=4)):
        left, weight = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        lazy = Rows(teacher.key, torch.arange(1.0, 8), hidden=left, head=Head(weight))
        student = lazy if sizes else Rows(lazy.key, lazy.weight, left @ weight.T)
        loss = evaluate(_uld(hybrid=form == "top"), student, teacher, torch.zeros(7, dtype=torch.long), sizes)
        loss.total.backward()
        found.append((float(loss.total.detach()), left.grad, weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(found[0][2], found[1][2], atol=1e-6)  # type: ignore[arg-type]


def test_the_gradient_keeps_its_size_at_any_temperature() -> None:
    torch.manual_seed(4)
    student, teacher = _rows(torch.randn(5, 9)), _rows(torch.randn(5, 9))
    sizes = [float(_loss(_uld(temperature=value), student, teacher)[1].norm()) for value in (20.0, 200.0)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)


def test_no_rows_give_no_loss() -> None:
    assert float(_uld()(_rows(torch.zeros(0, 3)), _rows(torch.zeros(0, 4)), TARGETS[:0]).total) == 0.0


def test_it_asks_for_the_teacher_and_for_a_temperature_that_was_kept() -> None:
    student = _rows(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="uld needs the teacher's rows"):
        _uld()(student, None, TARGETS[:1])
    teacher = _with(student, _top(torch.randn(1, 3), 2))
    with pytest.raises(ValueError, match="holds the temperatures 1, and 4 is asked for"):
        _uld(temperature=4)(student, teacher, TARGETS[:1])
