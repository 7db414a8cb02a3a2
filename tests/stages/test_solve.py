"""A target becomes the mildest steps that meet it, or an error that says what is nearest."""

from __future__ import annotations

import pytest

from attar.errors import AttarError
from attar.stages.dry import Cost
from attar.stages.solve import Rung, Steps, Wanted, ladders_of, solve


def _ladder(name: str, count: int) -> list[Rung]:
    return [Rung(((name, {"layers": count - place}),), 1 - place / count) for place in range(count)]


def _cost(steps: Steps) -> Cost:
    """Return a cost that grows with the layers that are left."""
    layers = steps[0][1]["layers"]
    return Cost(1000 * layers, 0.5 * layers)


@pytest.mark.parametrize(("wanted", "layers"), [(Wanted(bytes=7400), 7), (Wanted(p50=2.0), 4), (Wanted(9000, 1.2), 2)])
def test_the_mildest_rung_that_meets_the_target(wanted: Wanted, layers: int) -> None:
    solved = solve([_ladder("depth", 12)], _cost, wanted)
    assert solved.steps == (("depth", {"layers": layers}),)
    assert solved.cost == _cost(solved.steps)
    assert len(solved.tried) <= 5  # bisection, not a walk


def test_a_loose_target_needs_nothing() -> None:
    assert solve([_ladder("depth", 12)], _cost, Wanted(bytes=10**9)).steps == (("depth", {"layers": 12}),)


def test_of_two_ladders_the_one_that_keeps_more() -> None:
    def cost(steps: Steps) -> Cost:
        """Return a cost that one ladder has at half the price."""
        own = _cost(steps)
        return own if steps[0][0] == "depth" else Cost(own.bytes // 2, own.p50)

    solved = solve([_ladder("depth", 12), _ladder("channels", 12)], cost, Wanted(bytes=4000))
    assert solved.steps == (("channels", {"layers": 8}),)


def test_what_cannot_be_met_says_what_is_nearest() -> None:
    with pytest.raises(AttarError, match=r"asks for 0.00 MB and 5 ms, .* nearest is 0.00 MB and 0.50 ms \(depth"):
        solve([_ladder("depth", 12)], _cost, Wanted(500, 5.0))


def test_rungs_of_a_transformer_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import torch

    module = torch.nn.Module()
    module.config = SimpleNamespace(num_hidden_layers=6)  # type: ignore[assignment]
    module.layer = torch.nn.ModuleList([torch.nn.Identity() for _ in range(6)])
    (rungs,) = ladders_of("text-classification", SimpleNamespace(module=module))  # type: ignore[arg-type]
    kept = [rung.kept for rung in rungs]
    assert kept == sorted(kept, reverse=True)
    assert rungs[0].steps == ()
    assert dict(rungs[-1].steps)["depth"] == {"layers": 1}
    assert all(rung.steps[-1][0] == "dynamic_int8" for rung in rungs[2:])
