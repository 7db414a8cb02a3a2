from __future__ import annotations

import itertools

import pytest
import torch

from attar.compressors.quantize.grid import Grid, Scheme, fit, grids_of, scheme_of
from attar.core.nouns import Model
from attar.errors import AttarError

SCHEMES = [
    *(Scheme(bits, 32, symmetric) for bits, symmetric in itertools.product((2, 3, 4, 5, 8), (False, True))),
    Scheme(8, 32, True, "q8_0"),
    Scheme(4, 32, True, "q4_0"),
    Scheme(4, 32, False, "q4_1"),
    Scheme(4, 0),
    Scheme(4, 16),
]


def _name(scheme: Scheme) -> str:
    return f"{scheme.format}-{scheme.bits}-{scheme.group}-{scheme.symmetric}"


def _weight(seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 64, generator=made)
    weight[1] *= 1e-3
    weight[2, :32] = 0.0
    weight[3, 32:] = -0.7
    weight[4, 5] = 40.0
    weight[5] = weight[5].abs() + 3
    return weight


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=_name)
def test_values_give_their_codes_back_to_the_last_bit(scheme: Scheme, search: bool) -> None:
    grid = fit(_weight(), scheme, search=search)
    values = grid.round(_weight())
    codes = grid.codes(values)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) < 2**scheme.bits
    assert torch.equal(grid.values(codes), values)
    assert torch.equal(grid.codes(_weight()), codes)
    assert torch.equal(grid.round(values), values)


@pytest.mark.parametrize("scheme", SCHEMES, ids=_name)
def test_each_weight_goes_to_the_nearest_value_of_its_grid(scheme: Scheme) -> None:
    weight, grid = _weight(1), fit(_weight(1), scheme)
    width = scheme.width(64)
    for row, column in ((0, 0), (0, 40), (1, 3), (4, 6), (5, 63)):
        every = torch.arange(2**scheme.bits, dtype=torch.uint8)[None]
        one = _row(grid.part(column // width, column // width + 1), row)
        nearest = (one.values(every) - weight[row, column]).abs().min()
        error = (grid.round(weight)[row, column] - weight[row, column]).abs()
        assert float(error) == pytest.approx(float(nearest), rel=1e-5, abs=1e-7)


def _row(grid: Grid, row: int) -> Grid:
    zero, minimum = (None if part is None else part[[row]] for part in (grid.zero, grid.minimum))
    return Grid(grid.bits, grid.scale[[row]], zero, minimum)


@pytest.mark.parametrize("scheme", [one for one in SCHEMES if one.bits < 8], ids=_name)
def test_the_search_never_loses_more(scheme: Scheme) -> None:
    weight, importance = _weight(2), torch.rand(64, generator=torch.Generator().manual_seed(3)) + 0.1
    errors = []
    for search in (False, True):
        rounded = fit(weight, scheme, importance, search).round(weight)
        errors.append(((rounded - weight).square() * importance).reshape(6, -1, scheme.width(64)).sum(-1))
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert errors[1].sum() < errors[0].sum()


def test_weights_that_lie_on_a_grid_stay_there() -> None:
    codes = torch.arange(64).remainder(16).reshape(1, 64).to(torch.uint8)
    own = Grid(4, torch.tensor([[0.25, 0.5]]), None, torch.tensor([[-2.0, -1.0]]))
    weight = own.values(codes)
    assert torch.equal(fit(weight, Scheme(4, 32, False, "q4_1")).round(weight), weight)


def test_q4_0_puts_the_farthest_weight_on_code_0_with_its_sign() -> None:
    weight = torch.zeros(2, 32)
    weight[0, :3] = torch.tensor([-4.0, 3.6, 1.0])
    weight[1, :3] = torch.tensor([4.0, -3.6, 1.0])
    grid = fit(weight, Scheme(4, 32, True, "q4_0"), search=False)
    assert grid.scale.tolist() == [[0.5], [-0.5]]
    assert grid.codes(weight)[:, :4].tolist() == [[0, 15, 10, 8], [0, 15, 6, 8]]
    assert grid.round(weight)[:, :4].tolist() == [[-4.0, 3.5, 1.0, 0.0], [4.0, -3.5, 1.0, 0.0]]


def test_q8_0_reaches_as_far_up_as_down() -> None:
    weight = torch.zeros(1, 32)
    weight[0, :3] = torch.tensor([127.0, -127.0, 63.6])
    grid = fit(weight, Scheme(8, 32, True, "q8_0"), search=False)
    assert grid.scale.tolist() == [[1.0]]
    assert grid.codes(weight)[0, :4].tolist() == [255, 1, 192, 128]


def test_q4_1_has_a_minimum() -> None:
    weight = torch.linspace(1.0, 4.0, 32)[None]
    grid = fit(weight, Scheme(4, 32, False, "q4_1"), search=False)
    assert grid.minimum is not None
    assert grid.minimum.item() == 1.0
    assert grid.scale.item() == pytest.approx(0.2, rel=1e-3)
    assert grid.codes(weight)[0, [0, -1]].tolist() == [0, 15]


def test_a_zero_point_is_a_code_and_0_a_value() -> None:
    weight = torch.tensor([[-1.0, 2.0, 0.0, 0.4] * 4])
    grid = fit(weight, Scheme(2, 16), search=False)
    assert grid.zero is not None
    assert (grid.scale.item(), grid.zero.item()) == (1.0, 1)
    assert grid.round(weight)[0, :4].tolist() == [-1.0, 2.0, 0.0, 0.0]
    positive = fit(weight.abs() + 1, Scheme(4, 16), search=False)
    assert positive.zero is not None
    assert positive.zero.item() == 0


@pytest.mark.parametrize("scheme", [one for one in SCHEMES if one.format != "nbits"], ids=_name)
def test_scales_of_llama_cpp_are_half_floats(scheme: Scheme) -> None:
    for tensor in fit(_weight(), scheme).tensors("w").values():
        assert torch.equal(tensor.half().float(), tensor)


def test_many_rows_are_fitted_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(_weight(), Scheme(4, 32))
    monkeypatch.setattr("attar.compressors.quantize.grid.ROWS", 2)
    parts = fit(_weight(), Scheme(4, 32))
    assert torch.equal(whole.scale, parts.scale)
    assert whole.zero is not None
    assert parts.zero is not None
    assert torch.equal(whole.zero, parts.zero)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (Scheme(8, 32, True, "q8_0"), 8.5),
        (Scheme(4, 32, True, "q4_0"), 4.5),
        (Scheme(4, 32, False, "q4_1"), 5.0),
        (Scheme(4, 32, True), 4.5),
        (Scheme(4, 32, False), 4 + 20 / 32),
        (Scheme(4, 0, True), 4.25),
    ],
)
def test_stored_bits_count_scales_and_zero_points(scheme: Scheme, bits: float) -> None:
    assert scheme.stored_bits(64) == bits


def test_groups_that_do_not_fill_a_row_are_refused() -> None:
    with pytest.raises(AttarError, match=r"Groups of 128 weights do not fill a row of 96\. Take 16 or 32"):
        fit(torch.zeros(2, 96), Scheme(4, 128))
    with pytest.raises(AttarError, match="Keep the layer in float"):
        fit(torch.zeros(2, 17), Scheme(4, 32))


def test_formats_of_llama_cpp_have_their_own_bits_and_groups() -> None:
    with pytest.raises(
        AttarError, match="q4_0 has 4 bits in groups of 32 and is symmetric, got 3 bits in groups of 64"
    ):
        scheme_of(3, 64, False, "q4_0")
    assert scheme_of(8, 32, False, "q4_0") == Scheme(8, 32, True, "q8_0")
    assert scheme_of(3, 64, True, "nbits") == Scheme(3, 64, True)


def test_a_model_tells_its_grids() -> None:
    grid = fit(_weight(), Scheme(4, 32))
    model = Model(torch.nn.Linear(64, 6), "net", facts={"quantized": {"weight": {"bits": 4}}})
    model.tensors = grid.tensors("weight")
    assert model.tensors.keys() == {"weight.scale", "weight.zero"}
    assert torch.equal(grids_of(model)["weight"].round(_weight()), grid.round(_weight()))
    assert grids_of(Model(torch.nn.Linear(1, 1), "net")) == {}
