from __future__ import annotations

import math

import pytest
import torch
from tests.teachers.codecs.plain import TEMPERATURES, decoded, peaked, rows_of

from attar.core.rows import Rows, Sampled
from attar.objectives.forward_kl import ForwardKL
from attar.teachers.codecs.sampled import SampledCodec, layout
from attar.teachers.codecs.shares import from_codes, to_codes
from attar.teachers.codecs.threshold import threshold_sample, uniforms

CODEC = SampledCodec(SampledCodec.Settings(bytes=24, temperatures=TEMPERATURES))
DRAWS = 4000


def _sample(rows: Rows, temperature: float, codec: SampledCodec = CODEC, seed: int = 0) -> Sampled:
    sampled = decoded(codec, rows, seed).sampled
    assert sampled is not None
    return sampled[temperature]


def _again(logits: torch.Tensor, draws: int = DRAWS) -> Rows:
    """Return one row many times, each with a position of its own and so with draws of its own."""
    return rows_of(logits.expand(draws, -1))


def _dense(sample: Sampled) -> torch.Tensor:
    empty = torch.zeros(len(sample.ids), sample.choices, dtype=torch.float64)
    return empty.scatter_add(1, sample.ids, sample.shares.double())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_every_share_has_the_probability_as_its_mean(temperature: float) -> None:
    logits = peaked(1, 60)
    shares = _dense(_sample(_again(logits), temperature))
    p = (logits[0].double() / temperature).softmax(-1)
    error = (shares.mean(0) - p) / (shares.std(0) / math.sqrt(DRAWS)).clamp_min(1e-12)
    seen = shares.std(0) > 1e-9
    assert seen.sum() > 40
    assert float(error[seen].abs().max()) < 4.5  # the largest of 60
    assert float(error[seen].square().mean()) == pytest.approx(1.0, abs=0.75)
    assert torch.allclose(shares.mean(0)[~seen], p[~seen], atol=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradient_of_the_forward_divergence_are_unbiased(temperature: float) -> None:
    logits = peaked(1, 60, seed=2)
    torch.manual_seed(3)
    ours = torch.randn(1, 60).double()
    student = ours.expand(DRAWS, -1).clone().requires_grad_()
    said = decoded(CODEC, _again(logits))
    loss = ForwardKL(ForwardKL.Settings(temperature=temperature))
    values = loss.of_rows(rows_of(student), said)
    (gradients,) = torch.autograd.grad(values.sum(), student)
    p = (logits[0].double() / temperature).softmax(-1)
    q = (ours[0] / temperature).softmax(-1)
    exact = (p * (p / q).log()).sum()
    value = values.detach().double()
    assert abs(float((value.mean() - exact) / (value.std() / math.sqrt(DRAWS)))) < 4
    slope = (gradients * (q - p)).sum(-1) / temperature
    wanted = ((q - p) ** 2).sum() / temperature**2
    assert abs(float((slope.mean() - wanted) / (slope.std() / math.sqrt(DRAWS)))) < 4


def test_a_biased_record_would_be_seen() -> None:
    """The likeliest choices alone, made to sum to 1: the test above must tell them from an unbiased sample."""
    logits = peaked(1, 60)
    best = logits.double().softmax(-1).topk(8)
    p = logits[0].double().softmax(-1)
    cut = torch.zeros(60, dtype=torch.float64).scatter(0, best.indices[0], best.values[0] / best.values.sum())
    shares = _dense(_sample(_again(logits), 1.0))
    worst = ((cut - p).abs() / (shares.std(0) / math.sqrt(DRAWS)).clamp_min(1e-12)).max()
    assert float(worst) > 20


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_shares_sum_to_one_and_the_entropy_is_exact(temperature: float) -> None:
    rows = rows_of(peaked(50, 500))
    sample = _sample(rows, temperature)
    p = (rows.dense().double() / temperature).softmax(-1)
    assert torch.allclose(sample.shares.sum(-1), torch.ones(50), atol=1e-6)
    assert torch.allclose(sample.entropy.double(), -(p * p.log()).sum(-1), atol=2e-4)


def test_the_first_id_is_the_likeliest_choice() -> None:
    rows = rows_of(torch.cat([peaked(50, 500), torch.randn(20, 500) * 1e-3]))
    best = rows.dense().argmax(-1)
    assert torch.equal(_sample(rows, 4.0).ids[:, 0], best)
    assert torch.equal(CODEC.hard(CODEC.encode(rows), 500), best)


@pytest.mark.parametrize("choices", [1, 2, 3, 5, 1000, 65_536, 65_537])
@pytest.mark.parametrize("size", [16, 40, 512])
def test_rows_take_the_bytes_they_may(choices: int, size: int) -> None:
    codec = SampledCodec(SampledCodec.Settings(bytes=size, temperatures=TEMPERATURES))
    rows = rows_of(torch.cat([peaked(3, choices), torch.zeros(1, choices)]))
    columns = codec.encode(rows)
    taken = sum(column.nbytes for column in columns.values())
    assert taken <= 4 * 3 * size
    if choices >= 1000:
        assert taken == 4 * 3 * size
    sampled = codec.decode(columns, rows.key, rows.weight, choices).sampled
    assert sampled is not None
    for sample in sampled.values():
        assert torch.allclose(sample.shares.sum(-1), torch.ones(4), atol=1e-5)
        assert int(sample.ids.max()) < choices
        places = min(choices, layout(size, choices).places)
        # of very many equal choices, the likeliest has a share too small to be sure of
        assert places - 1 <= int((sample.shares[3] != 0).sum()) <= places


@pytest.mark.parametrize("choices", [1, 2, 3, 7, 20, 10_000, 70_000])
@pytest.mark.parametrize("size", [16, 17, 18, 40, 41, 512])
def test_ids_and_codes_never_meet(size: int, choices: int) -> None:
    form = layout(size, choices)
    for sure, places in enumerate(form.sizes):
        assert places * form.id_bytes + max(sure - 1, 0) <= form.width <= size - 5
        assert sure == 0 or sure < places <= choices
    assert list(form.sizes) == sorted(form.sizes, reverse=True)
    assert form.sizes[-1] == len(form.sizes)


def test_a_flat_row_keeps_more_choices_than_a_peaked_one() -> None:
    codec = SampledCodec(SampledCodec.Settings(bytes=40))
    flat = _sample(rows_of(torch.zeros(1, 5000)), 1.0, codec)
    steep = _sample(rows_of(torch.arange(5000.0)[None] * -0.5), 1.0, codec)
    assert int((flat.shares != 0).sum()) == 17
    assert int((steep.shares > 0).sum()) == 12


def test_draws_depend_on_seed_example_position_and_temperature_alone() -> None:
    rows = rows_of(peaked(40, 300))
    whole = CODEC.encode(rows, 5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = CODEC.encode(rows.take(order), 5)
    alone = CODEC.encode(rows.take(slice(17, 18)), 5)
    for name, column in whole.items():
        column = column.to(torch.int32)
        assert torch.equal(shuffled[name].to(torch.int32), column[order])
        assert torch.equal(alone[name].to(torch.int32), column[17:18])
    assert not torch.equal(CODEC.encode(rows, 6)["packed"], whole["packed"])
    other = Rows(rows.key + torch.tensor([1, 0]), rows.weight, rows.dense())
    assert not torch.equal(CODEC.encode(other, 5)["packed"], whole["packed"])


def test_uniforms_are_uniform_and_differ_everywhere() -> None:
    key = torch.stack([torch.arange(200) // 20, torch.arange(200) % 20], dim=1)
    draws = uniforms(1, key, 1.0, 20)
    assert draws.unique().numel() == 4000
    assert float(draws.min()) > 0
    assert float(draws.max()) < 1
    share = torch.histc(draws, 10, 0, 1) / 400
    assert float((share - 1).abs().max()) < 0.25
    for other in (uniforms(2, key, 1.0, 20), uniforms(1, key, 2.0, 20)):
        assert abs(float(torch.corrcoef(torch.stack([draws.flatten(), other.flatten()]))[0, 1])) < 0.06


def test_likely_choices_are_sure_and_the_threshold_is_the_one() -> None:
    """p = .5, .3, four of .05 and K = 4: two are sure, the others share .2 in two places of .1."""
    p = torch.tensor([[0.05, 0.5, 0.05, 0.3, 0.05, 0.05]])
    for draw in (0.01, 0.3, 0.6, 0.99):
        order = p.topk(4).indices
        ids, shares, sure = threshold_sample(p.clone(), order, torch.tensor([draw]).double())
        assert sure.tolist() == [2]
        assert ids[0, :2].tolist() == [1, 3]
        assert shares[0].tolist() == pytest.approx([0.5, 0.3, 0.1, 0.1])
        assert len(set(ids[0].tolist())) == 4


@pytest.mark.parametrize("choices", [64, 65, 130])
def test_a_draw_sees_all_choices_whatever_their_number(choices: int) -> None:
    p = torch.full((choices * 20, choices), 1.0 / choices)
    draws = ((torch.arange(choices * 20) + 0.5) / (choices * 20)).double()
    ids, shares, _ = threshold_sample(p, torch.arange(5).expand(len(p), 5), draws)
    counts = torch.bincount(ids[:, 1:].flatten(), minlength=choices)
    assert counts[0] == 0  # it is the first of the likeliest, and sure
    assert counts[1:].float().std() / counts[1:].float().mean() < 0.05
    assert torch.allclose(shares[:, 1:], torch.full((1,), (1 - 1 / choices) / 4).double())


@pytest.mark.parametrize(("bits", "step"), [(8, 0.07), (16, 2.5e-4)])
def test_codes_round_without_bias_and_stay_within_a_step(bits: int, step: float) -> None:
    shares = torch.tensor([0.9, 0.3, 0.0123, 1e-4, 3e-7, 1e-9, 0.0]).double()
    draws = torch.rand(50_000, 7, generator=torch.Generator().manual_seed(0)).double()
    codes = to_codes(shares.expand(50_000, -1), draws, bits)
    assert int(codes.max()) == 2**bits - 1
    back = from_codes(codes, bits).double()
    error = (back.mean(0) - shares) / (back.std(0) / math.sqrt(50_000)).clamp_min(1e-9 * shares + 1e-15)
    assert float(error.abs().max()) < 30 if bits == 16 else 4  # float32 of what a code stands for
    assert torch.all((back[:, :5] - shares[:5]).abs() <= step * shares[:5])


def test_one_sure_choice_leaves_no_share_for_others() -> None:
    sample = _sample(rows_of(torch.tensor([[-math.inf, 0.0] + [-math.inf] * 40])), 1.0)
    assert int(sample.ids[0, 0]) == 1
    assert sample.shares[0].tolist() == [1.0] + [0.0] * (sample.shares.shape[1] - 1)
    assert float(sample.entropy) == 0.0


def test_few_choices_are_all_kept() -> None:
    rows = rows_of(torch.randn(40, 4))
    shares = _dense(_sample(rows, 1.0))
    assert torch.allclose(shares, rows.dense().double().softmax(-1), atol=0.08)


def test_ids_above_two_bytes_survive() -> None:
    logits = torch.zeros(1, 70_000)
    logits[0, 69_999] = 30.0
    assert int(_sample(rows_of(logits), 1.0).ids[0, 0]) == 69_999
    assert int(_sample(_again(torch.zeros(1, 70_000), 20), 1.0).ids.max()) > 65_535


def test_no_rows_give_empty_columns() -> None:
    assert _sample(rows_of(torch.zeros(0, 90)), 1.0).ids.shape == (0, layout(24, 90).places)
