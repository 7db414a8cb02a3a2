from __future__ import annotations

import math

import pytest
import torch
from tests.teachers.codecs.plain import decoded, rows_of

from attar.teachers.codecs.full import FullCodec

HALF = FullCodec(FullCodec.Settings())
FLOAT = FullCodec(FullCodec.Settings(precision="float32"))


def test_probabilities_survive_the_round_trip_as_exactly_as_asked() -> None:
    torch.manual_seed(0)
    rows = rows_of(torch.randn(30, 6) * 5)
    exact = rows.dense().double().softmax(-1)
    assert torch.allclose(decoded(HALF, rows).dense().double().softmax(-1), exact, atol=2e-3)
    assert torch.allclose(decoded(FLOAT, rows).dense().double().softmax(-1), exact, atol=1e-6)
    assert not torch.allclose(decoded(HALF, rows).dense().double().softmax(-1), exact, atol=1e-6)


def test_sure_and_impossible_choices_stay_finite() -> None:
    coded = HALF.encode(rows_of(torch.tensor([[1e5, 0.0, -math.inf]])))["scores"]
    assert coded.dtype == torch.float16
    assert torch.isfinite(coded).all()
    assert coded.float().softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_the_hard_target_is_the_likeliest_choice() -> None:
    torch.manual_seed(0)
    rows = rows_of(torch.randn(30, 6) * 5)
    assert torch.equal(HALF.hard(HALF.encode(rows), 6), rows.dense().argmax(-1))


@pytest.mark.parametrize("codec", [HALF, FLOAT])
def test_no_rows_give_empty_columns(codec: FullCodec) -> None:
    assert codec.encode(rows_of(torch.zeros(0, 5)))["scores"].shape == (0, 5)
    assert len(decoded(codec, rows_of(torch.zeros(0, 5)))) == 0
