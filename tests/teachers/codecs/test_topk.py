from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.teachers.codecs.plain import TEMPERATURES, decoded, peaked, rows_of
from torch._subclasses.fake_tensor import FakeTensorMode

from attar.core.rows import Rows, Top
from attar.objectives.forward_kl import ForwardKL
from attar.teachers.codecs import topk
from attar.teachers.codecs.topk import Target, TopkCodec, smallest_k


def _codec(k: int) -> TopkCodec:
    return TopkCodec(TopkCodec.Settings(k=k, temperatures=TEMPERATURES))


def _top(rows: Rows, k: int) -> Top:
    top = decoded(_codec(k), rows).top
    assert top is not None
    return top


def test_the_likeliest_choices_are_kept_in_order() -> None:
    rows = rows_of(peaked(20, 300))
    top = _top(rows, 8)
    exact = rows.dense().double().log_softmax(-1)
    assert torch.equal(top.ids, exact.topk(8).indices)
    assert torch.allclose(top.log_p.double(), exact.topk(8).values, rtol=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 8, 299])
def test_the_rest_is_exact_at_every_temperature(k: int, temperature: float) -> None:
    rows = rows_of(peaked(20, 300))
    top = _top(rows, k)
    p = (rows.dense().double() / temperature).softmax(-1)
    outside = torch.stack([1 - row[ids].sum() for row, ids in zip(p, top.ids, strict=True)])
    assert torch.allclose(top.rest[temperature].double().exp(), outside, rtol=4e-3, atol=1e-7)
    log_p, rest = top.softened(temperature)
    assert torch.allclose(log_p.double().exp(), p.gather(-1, top.ids), rtol=1e-2)
    assert torch.allclose(log_p.exp().sum(-1) + rest.exp(), torch.ones(20), atol=1e-6)


def test_a_rest_far_below_the_digits_of_one_is_kept() -> None:
    """1 - Σ kept would be 0 here."""
    rows = rows_of(torch.tensor([[0.0, 0.0, -40.0, -41.0]]))
    found = float(_top(rows, 2).rest[1.0])
    assert found == pytest.approx(math.log(math.exp(-40) + math.exp(-41)) - math.log(2), rel=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_loss_and_gradient_are_those_of_the_coarse_exact_teacher(temperature: float) -> None:
    rows = rows_of(peaked(12, 40))
    said = decoded(_codec(5), rows)
    torch.manual_seed(1)
    student = torch.randn(12, 40, requires_grad=True)
    loss = ForwardKL(ForwardKL.Settings(temperature=temperature))
    loss(rows_of(student), said, torch.zeros(12, dtype=torch.long)).total.backward()
    plain = student.detach().double().requires_grad_()
    p = (rows.dense().double() / temperature).softmax(-1)
    q = (plain / temperature).softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for one, other in zip(p, q, strict=True):
        best = one.topk(5).indices
        mask = torch.ones(40, dtype=torch.bool).scatter(0, best, False)
        coarse = [(one[i], other[i]) for i in best] + [(one[mask].sum(), other[mask].sum())]
        total = total + sum(a * (a / b).log() for a, b in coarse) / 12
    (total * temperature**2).backward()
    assert student.grad is not None
    assert plain.grad is not None
    assert torch.allclose(
        student.grad.double(), plain.grad, atol=2e-4 * float(plain.grad.abs().max()) + 1e-6, rtol=1e-2
    )


@pytest.mark.parametrize("choices", [65_536, 65_537, 70_000])
def test_ids_above_two_bytes_survive(choices: int) -> None:
    """A record of another project overflowed at 65,536: id 65,536 came back as 0."""
    logits = torch.zeros(2, choices)
    logits[0, choices - 1] = 9.0
    logits[1, min(65_536, choices - 2)] = 9.0
    codec = _codec(1)
    assert _top(rows_of(logits), 1).ids.flatten().tolist() == [choices - 1, min(65_536, choices - 2)]
    assert codec.hard(codec.encode(rows_of(logits)), choices).tolist() == [choices - 1, min(65_536, choices - 2)]


def test_bytes_of_a_row_are_those_stated() -> None:
    columns = _codec(32).encode(rows_of(peaked(10, 1000)))
    assert sum(column.nbytes for column in columns.values()) == 10 * (32 * 4 + 3 * 2)


def test_k_ends_one_below_all_choices() -> None:
    assert _top(rows_of(torch.zeros(1, 5)), 32).ids.shape == (1, 4)
    assert float(_top(rows_of(torch.zeros(1, 5)), 32).rest[1.0]) == pytest.approx(math.log(0.2), rel=1e-3)


def test_impossible_choices_stay_finite() -> None:
    top = _top(rows_of(torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]])), 2)
    assert torch.isfinite(top.log_p).all()
    assert float(top.rest[2.0]) < -20_000.0


def test_no_rows_give_empty_columns() -> None:
    assert _top(rows_of(torch.zeros(0, 9)), 4).ids.shape == (0, 4)


def _plain_losses(logits: torch.Tensor, k: int, temperature: float) -> tuple[float, float]:
    kl = error = reach = 0.0
    for row in logits.double():
        p = (row / temperature).softmax(-1)
        best = p.topk(k).indices
        spread = torch.full_like(p, float(1 - p[best].sum()) / (len(p) - k))
        spread[best] = p[best]
        kl += float((p * (p / spread).log()).sum()) / len(logits)
        error += float(((spread - p) ** 2).sum())
        reach += float(((p - 1 / len(p)) ** 2).sum())
    return kl, math.sqrt(error / reach)


@pytest.mark.parametrize("target", [Target(kl=0.05), Target(gradient_error=0.1), Target(kl=0.3, gradient_error=0.02)])
def test_k_is_the_smallest_that_meets_the_target(target: Target) -> None:
    logits = peaked(6, 60)
    k = smallest_k(rows_of(logits), target, (1.0, 2.0))

    def met(k: int) -> bool:
        losses = [_plain_losses(logits, k, temperature) for temperature in (1.0, 2.0)]
        return all(
            kl <= (target.kl or math.inf) and error <= (target.gradient_error or math.inf) for kl, error in losses
        )

    assert met(k)
    assert not met(k - 1)


def test_a_fitted_codec_has_the_k_and_no_target_left() -> None:
    codec = TopkCodec(TopkCodec.Settings(target=Target(kl=0.05)))
    rows = rows_of(peaked(6, 60))
    fitted = codec.fitted(rows)
    assert fitted.settings.k == smallest_k(rows, Target(kl=0.05), (1.0,))
    assert fitted.settings.target is None
    assert fitted.fitted(rows) is fitted


def test_a_target_that_nothing_short_of_all_meets_keeps_all_but_one() -> None:
    assert smallest_k(rows_of(peaked(3, 20)), Target(kl=1e-300), (1.0,)) == 19


def test_a_target_needs_a_bound() -> None:
    with pytest.raises(ValidationError, match="give kl, gradient_error or both"):
        Target()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(0.2, 30), st.integers(0, 10_000))
def test_decoded_probabilities_sum_to_one(k: int, temperature: float, seed: int) -> None:
    codec = TopkCodec(TopkCodec.Settings(k=k, temperatures=(temperature,)))
    top = decoded(codec, rows_of(peaked(4, 50, seed))).top
    assert top is not None
    log_p, rest = top.softened(temperature)
    assert torch.allclose(log_p.exp().sum(-1) + rest.exp(), torch.ones(4), atol=1e-5)


def test_what_a_gpu_says_is_measured_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors of another device without the device
        said = torch.empty(2, 5, device="cuda")
        monkeypatch.setattr(topk, "blocks", lambda probe: iter([(slice(0, 2), said)]))
        devices = [p.device.type for p in topk._sorted(rows_of(torch.zeros(2, 5)), 2.0)]
    assert devices == ["cpu", "cpu"]
