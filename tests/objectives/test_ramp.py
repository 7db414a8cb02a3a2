from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from attar.core.rows import Rows
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.ramp import Ramp, Scheduled, Term
from attar.objectives.weighted import WeightedSum

CE = CrossEntropy(CrossEntropy.Settings())
KL = ForwardKL(ForwardKL.Settings(temperature=4))


def test_a_ramp_by_hand() -> None:
    straight, slow = Ramp(start=4, end=1, until=0.5), Ramp(start=0, end=1, shape="cosine")
    assert [straight.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [4.0, 2.5, 1.0, 1.0]
    assert slow.at(0.25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert slow.at(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"start": -1, "end": 0}, {"start": 1}, {"start": 1, "end": 0, "until": 0}])
def test_a_wrong_ramp_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Ramp(**wrong)  # type: ignore[arg-type]


def _rows() -> tuple[Rows, Rows, torch.Tensor]:
    torch.manual_seed(0)
    key = torch.stack([torch.arange(4), torch.zeros(4, dtype=torch.long)], dim=1)
    return Rows(key, torch.ones(4), torch.randn(4, 5)), Rows(key, torch.ones(4), torch.randn(4, 5)), torch.arange(4)


def test_the_sum_at_a_point_is_the_sum_with_the_values_of_that_point() -> None:
    moving = Scheduled([Term(Ramp(start=1, end=0), CE), Term(2.0, KL, Ramp(start=4, end=2))])
    plain = WeightedSum([(0.5, CE), (2.0, ForwardKL(ForwardKL.Settings(temperature=3)))])
    student, teacher, targets = _rows()
    assert torch.equal(moving.at(0.5)(student, teacher, targets).total, plain(student, teacher, targets).total)
    assert KL.settings.temperature == 4  # the objective itself stays as it was


def test_a_term_that_fades_out_still_counts_in_what_is_needed() -> None:
    moving = Scheduled([Term(Ramp(start=0, end=1), CE), Term(Ramp(start=1, end=0), KL)])
    assert moving.needs == {"hard", "logits"}
    assert moving.by_row
    assert not moving.divergence
    assert [type(term).__name__ for _, term in moving.at(0.0).terms] == ["ForwardKL"]
    assert [type(term).__name__ for _, term in moving.at(1.0).terms] == ["CrossEntropy"]


def test_where_all_weights_are_zero_nothing_pulls() -> None:
    moving = Scheduled([Term(Ramp(start=1, end=0, until=0.5), CE)])
    student, teacher, targets = _rows()
    assert float(moving.at(1.0)(student, teacher, targets).total) == pytest.approx(0.0, abs=1e-10)


def test_what_an_objective_learned_stays_with_it() -> None:
    own = ForwardKL(ForwardKL.Settings(temperature=4))
    own.module = torch.nn.Linear(2, 2)  # type: ignore[attr-defined]
    moved = Scheduled([Term(1.0, own, Ramp(start=4, end=1))]).at(0.5).terms[0][1]
    assert moved.module is own.module  # type: ignore[attr-defined]


def test_the_fullest_sum_has_each_ramp_at_its_larger_end() -> None:
    fading = Term(Ramp(start=2, end=1), KL, Ramp(start=1, end=5))
    moving = Scheduled([Term(Ramp(start=0, end=3, until=0.5), CE), fading])
    (first, hard), (second, soft) = moving.fullest().terms
    assert (first, second) == (3.0, 2.0)
    assert hard is CE
    assert soft.settings.temperature == 5  # type: ignore[attr-defined]
    assert KL.settings.temperature == 4


def test_the_fullest_sum_of_weights_that_are_always_zero_pulls_nowhere() -> None:
    ((weight, _),) = Scheduled([Term(Ramp(start=0, end=0), CE)]).fullest().terms
    assert 0 < weight <= 1e-10
