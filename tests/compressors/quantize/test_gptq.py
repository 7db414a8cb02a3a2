from __future__ import annotations

import pytest
import torch

from attar.compressors.activations import Statistics
from attar.compressors.quantize.gptq import gptq, inverse_factor
from attar.compressors.quantize.grid import Scheme, fit
from attar.compressors.quantize.round import counted, output_error, round_to_nearest
from attar.errors import AttarError

SCHEMES = [
    Scheme(3, 16),
    Scheme(4, 32),
    Scheme(4, 32, True, "q4_0"),
    Scheme(4, 32, False, "q4_1"),
    Scheme(4, 0, True),
]


def _case(inputs: int = 64, outputs: int = 8, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight, and the Hessian of inputs that go together."""
    made = torch.Generator().manual_seed(0)
    mix = torch.randn(inputs // 4, inputs, generator=made)
    rows = torch.randn(tokens, inputs // 4, generator=made) @ mix + 0.3 * torch.randn(tokens, inputs, generator=made)
    rows *= torch.rand(inputs, generator=made) * 3
    return torch.randn(outputs, inputs, generator=made), rows.T @ rows / tokens


def _slow(weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme, order: bool) -> torch.Tensor:
    """Return what GPTQ says, by its definition: the inverse of what is left is computed anew for each input."""
    weight, width = weight.double().clone(), scheme.width(weight.shape[1])
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(len(hessian)).double()
    importance = counted(hessian.diagonal())
    grid = fit(weight.float(), scheme, importance)
    diagonal = hessian.diagonal()
    turns = torch.argsort(diagonal, descending=True, stable=True).tolist() if order else list(range(len(hessian)))
    left = list(turns)
    for place in turns:
        group = place // width
        if not order and place % width == 0:
            ahead = slice(place, place + width)
            one = Scheme(scheme.bits, width, scheme.symmetric, scheme.format)
            own = fit(weight[:, ahead].float(), one, importance[ahead])
            for old, new in zip((grid.scale, grid.zero, grid.minimum), (own.scale, own.zero, own.minimum), strict=True):
                if old is not None and new is not None:
                    old[:, group] = new[:, 0]
        inverse = torch.linalg.inv(damped[left][:, left])
        rounded = grid.part(group, group + 1).round(weight[:, [place]].float()).double()[:, 0]
        error = (weight[:, place] - rounded) / inverse[0, 0]
        weight[:, left] -= torch.outer(error, inverse[0])
        weight[:, place] = rounded
        left.remove(place)
    return weight.float()


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.format}-{s.bits}-{s.group}")
def test_it_is_the_definition(scheme: Scheme, order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.compressors.quantize.gptq.BLOCK", 32)  # updates between blocks too
    weight, hessian = _case()
    got, grid = gptq(weight, hessian, scheme, order)
    wanted = _slow(weight, hessian, scheme, order)
    differ = (got - wanted).abs() > 1e-4
    assert differ.float().mean() < 0.01  # a weight in the middle of two values may fall on either side
    assert torch.equal(grid.round(got), got)
    assert torch.equal(grid.values(grid.codes(got)), got)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.format}-{s.bits}-{s.group}")
def test_it_loses_less_than_rounding_where_inputs_go_together(scheme: Scheme, order: bool) -> None:
    weight, hessian = _case()
    nearest = output_error(weight, round_to_nearest(weight, scheme)[0], hessian)
    assert output_error(weight, gptq(weight, hessian, scheme, order)[0], hessian) < 0.6 * nearest


def test_inputs_that_do_not_meet_are_rounded_to_the_nearest() -> None:
    weight = _case()[0]
    hessian = torch.diag(torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5)
    got, grid = gptq(weight, hessian, Scheme(4, 32))
    assert torch.equal(got, grid.round(weight))


def test_an_error_is_made_good_by_the_next_input() -> None:
    # H = [[1, 1/2], [1/2, 1]]: the inverse is 4/3 [[1, -1/2], [-1/2, 1]], so an error e of the first moves the second
    # by e / 2; 16 inputs, for a group
    hessian = torch.eye(16)
    hessian[0, 1] = hessian[1, 0] = 0.5
    weight = torch.zeros(1, 16)
    weight[0, :3] = torch.tensor([0.4, 0.4, 4.0])
    got, grid = gptq(weight, hessian, Scheme(4, 16, True), order=False, damping=1e-9)
    assert abs(grid.scale.item()) == pytest.approx(0.5, rel=0.2)
    step = abs(grid.scale.item())
    first = round(0.4 / step) * step
    second = round((0.4 + (0.4 - first) / 2) / step) * step
    assert got[0, :2].tolist() == pytest.approx([first, second])


def test_the_factor_is_of_the_damped_inverse() -> None:
    hessian = _case()[1]
    upper = inverse_factor(hessian, 0.05).double()
    damped = hessian.double() + 0.05 * hessian.double().diagonal().mean() * torch.eye(64).double()
    torch.testing.assert_close(upper.T @ upper @ damped, torch.eye(64).double(), rtol=1e-3, atol=1e-3)
    assert torch.equal(upper, upper.triu())


def test_inputs_that_were_never_used_are_rounded_to_the_nearest() -> None:
    weight, hessian = _case()
    hessian[5] = hessian[:, 5] = 0
    got, grid = gptq(weight, hessian, Scheme(4, 32))
    assert torch.equal(got[:, 5], grid.round(weight)[:, 5])
    nothing = gptq(weight, torch.zeros(64, 64), Scheme(4, 32))[0]
    assert torch.equal(nothing, fit(weight, Scheme(4, 32)).round(weight))


def test_one_token_is_enough() -> None:
    weight, row = _case()[0], torch.randn(64, generator=torch.Generator().manual_seed(2))
    hessian = torch.outer(row, row)
    got = gptq(weight, hessian, Scheme(4, 32))[0]
    assert got.isfinite().all()
    assert output_error(weight, got, hessian) < output_error(
        weight, round_to_nearest(weight, Scheme(4, 32))[0], hessian
    )


def test_activations_that_are_no_numbers_are_refused() -> None:
    weight, hessian = _case()
    with pytest.raises(AttarError, match="infinite or no number"):
        gptq(weight, hessian * float("nan"), Scheme(4, 32))


def test_rounding_knows_which_inputs_count() -> None:
    weight, hessian = _case()
    found = Statistics(1, hessian.diagonal(), hessian.diagonal().sqrt())
    blind, seen = (round_to_nearest(weight, Scheme(3, 32), one)[0] for one in (None, found))
    importance = hessian.diagonal()
    assert ((seen - weight).square() * importance).sum() < ((blind - weight).square() * importance).sum()


def test_the_output_error_is_that_of_the_outputs() -> None:
    made = torch.Generator().manual_seed(4)
    rows, weight, other = (torch.randn(size, generator=made) for size in ((50, 6), (3, 6), (3, 6)))
    wanted = (rows @ (weight - other).T).square().sum(1).mean()
    assert output_error(weight, other, rows.T @ rows / 50) == pytest.approx(float(wanted), rel=1e-5)
