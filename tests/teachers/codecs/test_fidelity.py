from __future__ import annotations

import math

import pytest
import torch
from tests.teachers.codecs.plain import TEMPERATURES, decoded, lazily, peaked, rows_of

from attar import catalog
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.objectives.forward_kl import ForwardKL
from attar.teachers.codecs import base, fidelity
from attar.teachers.codecs.base import Codec
from attar.teachers.codecs.fidelity import Fidelity, added, compare, difference, halfway, probe_places, stated, target
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.sampled import SampledCodec
from attar.teachers.codecs.topk import TopkCodec

FULL = FullCodec(FullCodec.Settings())
TOPK = TopkCodec(TopkCodec.Settings(k=6, temperatures=TEMPERATURES))
SAMPLED = SampledCodec(SampledCodec.Settings(bytes=24, temperatures=TEMPERATURES))
CODECS: list[Codec] = [FULL, TOPK, SAMPLED]


def _fidelity(codec: Codec, rows: Rows) -> Fidelity:
    columns = codec.encode(rows)
    return stated(compare(codec, rows, columns), sum(part.nbytes for part in columns.values()) / len(rows))


def test_every_codec_of_the_catalogue_is_here() -> None:
    assert sorted(catalog.TABLES["codec"]) == sorted(codec.name for codec in CODECS)
    for codec in CODECS:
        assert catalog.entry("codec", codec.name) is type(codec)
        assert "hard" in codec.gives


def test_logits_that_float16_holds_exactly_lose_nothing() -> None:
    found = _fidelity(FULL, rows_of(torch.zeros(3, 2)))
    assert found.bytes_per_row == 4.0
    assert found.kl == pytest.approx(0.0, abs=1e-7)


def test_figures_of_full_against_the_slow_version() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 6) * 4
    exact, coded = logits.double().softmax(-1), decoded(FULL, rows_of(logits)).dense().double().softmax(-1)
    found = _fidelity(FULL, rows_of(logits))
    kl = sum(p * math.log(p / q) for p, q in zip(exact.flatten().tolist(), coded.flatten().tolist(), strict=True)) / 50
    error = math.sqrt(((coded - exact) ** 2).sum().item()) / math.sqrt(((exact - 1 / 6) ** 2).sum().item())
    assert found.kl == pytest.approx(kl, rel=1e-6, abs=1e-12)
    assert found.gradient_error == pytest.approx(error, rel=1e-6)
    assert 0 < found.gradient_error < 2e-3
    assert found.to_json() == {"bytes_per_row": 12.0, "kl": found.kl, "gradient_error": found.gradient_error}


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_topk_is_judged_by_a_reader_who_spreads_the_rest_evenly(temperature: float) -> None:
    logits = peaked(20, 50)
    found = _fidelity(TOPK, rows_of(logits)).by_temperature[f"{temperature:g}"]
    kl = error = reach = 0.0
    for row in logits.double():
        p = (row / temperature).softmax(-1)
        best = p.topk(6).indices
        spread = torch.full_like(p, float(1 - p[best].sum()) / 44)
        spread[best] = p[best]
        kl += float((p * (p / spread).log()).sum()) / 20
        error, reach = error + float(((spread - p) ** 2).sum()), reach + float(((p - 0.02) ** 2).sum())
    assert found["kl"] == pytest.approx(kl, rel=1e-3)
    assert found["gradient_error"] == pytest.approx(math.sqrt(error / reach), rel=1e-2)
    assert 0 <= found["bucket_kl"] < 1e-5 < found["kl"]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("student", ["untrained", "halfway"])
def test_the_error_is_that_of_the_gradient_a_student_gets(codec: Codec, student: str) -> None:
    rows = rows_of(peaked(20, 50).double())
    exact = rows.dense().log_softmax(-1)
    temperature = codec.temperatures[-1]
    q = halfway(exact, temperature) if student == "halfway" else torch.full_like(exact, 1 / 50)
    gradients = []
    for teacher in (rows, decoded(codec, rows)):
        logits = (q.log() * temperature).requires_grad_()
        loss = ForwardKL(ForwardKL.Settings(temperature=temperature))
        loss(rows_of(logits), teacher, torch.zeros(20, dtype=torch.long)).total.backward()
        gradients.append(logits.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    error = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    sums = stated(compare(codec, rows, codec.encode(rows)), 1.0)
    own = sums.by_temperature.get(f"{temperature:g}", {"gradient_error": sums.gradient_error})
    name = "gradient_error" if student == "untrained" else "student_gradient_error"
    if name in own:
        assert own[name] == pytest.approx(error, rel=2e-3)


def test_a_sample_has_no_divergence_and_says_how_far_from_unbiased_it_is() -> None:
    rows = rows_of(peaked(1, 50).expand(2000, -1))
    found = _fidelity(SAMPLED, rows).to_json()
    assert "kl" not in found
    for figures in found["by_temperature"].values():
        assert abs(figures["bias_z"]) < 4
    assert found["by_temperature"]["4"]["gradient_error"] > 0.02


def test_a_biased_record_shows_in_the_bias() -> None:
    rows = rows_of(peaked(200, 50))
    columns = TOPK.encode(rows)
    columns["rest"] = torch.full_like(columns["rest"], -60_000.0)  # the mass outside is forgotten
    sums = compare(TOPK, rows, columns)["1"]
    assert sums["bias"] / math.sqrt(sums["bias_squares"]) > 4


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_lazily_given_rows_equal_dense_ones(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = lazily(23, 100)
    dense = Rows(lazy.key, lazy.weight, lazy.dense())
    monkeypatch.setattr(base, "BLOCK_VALUES", 700)  # 7 rows a block
    blocked = codec.encode(lazy)
    monkeypatch.setattr(base, "BLOCK_VALUES", 10**6)
    whole = codec.encode(dense)
    for name, column in whole.items():
        assert column.shape == blocked[name].shape
        assert torch.allclose(column.double(), blocked[name].double(), rtol=2e-3, atol=1.01)
        assert (column.double() - blocked[name].double()).abs().mean() < 0.02


def test_scores_never_exist_for_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BLOCK_VALUES", 700)
    seen = [len(log_p) for _, log_p in base.blocks(lazily(23, 100))]
    assert seen == [7, 7, 7, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1] = bad
    with pytest.raises(AttarError, match="hold NaN"):
        FULL.encode(rows_of(logits))


def test_sums_of_parts_are_those_of_the_whole() -> None:
    rows = rows_of(peaked(30, 50))
    columns = TOPK.encode(rows)
    parts = []
    for places in (slice(0, 11), slice(11, 30)):
        parts.append(compare(TOPK, rows.take(places), {name: part[places] for name, part in columns.items()}))
    whole = compare(TOPK, rows, columns)
    for temperature, sums in added(parts).items():
        same = {name: value for name, value in sums.items() if not name.startswith("student")}
        assert same == pytest.approx({name: whole[temperature][name] for name in same})
    assert added([]) == {}


def test_of_many_rows_some_are_compared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "PROBE_VALUES", 1000)
    assert probe_places(101, 200).tolist() == [0, 25, 50, 75, 100]
    assert probe_places(3, 200).tolist() == [0, 1, 2]
    assert probe_places(9, 10**6).tolist() == [0, 3, 5, 8]
    assert probe_places(0, 10).tolist() == []


def test_the_rest_is_spread_as_the_student_spreads_it() -> None:
    rows = rows_of(torch.tensor([[5.0, 1.0, 0.0, 0.0]]))
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double()
    said = target(decoded(TopkCodec(TopkCodec.Settings(k=1)), rows), student, 1.0)
    p = rows.dense().double().softmax(-1)
    rest = float(1 - p[0, 0])
    wanted = [float(p[0, 0]), rest * 0.2 / 0.9, rest * 0.3 / 0.9, rest * 0.4 / 0.9]
    assert said[0].tolist() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_live_rows_differ_from_the_record_where_they_do(codec: Codec) -> None:
    rows = rows_of(peaked(20, 50))
    kept = decoded(codec, rows)
    assert difference(rows, kept) < 0.01
    assert difference(rows_of(-rows.dense()), kept) > 0.2
    assert difference(rows.take(slice(0, 0)), kept.take(slice(0, 0))) == 0.0
