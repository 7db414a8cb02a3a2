"""Repair is the ridge regression that does best on unseen examples, or none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.compressors.prune.families import calibration, model_of

from attar.compressors.prune import repair
from attar.compressors.prune.anatomy import hidden_group, mlp_groups
from attar.compressors.prune.repair import RIDGES, folded, repaired
from attar.compressors.prune.slicing import Choice


def _rows(seed: int, count: int = 400, width: int = 12, shared: int = 4) -> torch.Tensor:
    """Return rows of channels that are mixtures of a few, with a little noise of their own."""
    made = torch.Generator().manual_seed(seed)
    mix = torch.randn(shared, width, generator=torch.Generator().manual_seed(99))
    own = 0.1 * torch.randn(count, width, generator=made)
    return torch.randn(count, shared, generator=made) @ mix + own


def _product(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows / len(rows)


def test_it_is_ridge_regression_by_hand() -> None:
    first, second, weight, kept = _rows(1), _rows(2), torch.randn(5, 12), torch.tensor([0, 2, 3, 7, 8, 11])
    gone = torch.tensor([i for i in range(12) if i not in kept])
    new, share = folded(weight, (_product(first), _product(second)), kept)
    x = torch.cat([first, second]).double()
    candidates = []
    for ridge in RIDGES:
        sizes = x[:, kept].square().mean(0)
        pull = torch.diag((len(x) * ridge * sizes).sqrt())  # rows that ask each weight to stay
        target = torch.cat([x[:, gone] @ weight[:, gone].T.double(), torch.zeros(len(kept), 5).double()])
        moved = torch.linalg.lstsq(torch.cat([x[:, kept], pull]), target).solution.T
        candidates.append(weight[:, kept] + moved.float())
    assert any(torch.allclose(new[:, kept], one, atol=1e-3) for one in candidates)
    assert torch.equal(new[:, gone], weight[:, gone])
    assert 0 < share < 0.5


def test_it_brings_unseen_answers_nearer() -> None:
    weight, kept, unseen = torch.randn(5, 12), torch.arange(6), _rows(3)
    new, _ = folded(weight, (_product(_rows(1)), _product(_rows(2))), kept)
    before, after = (
        float((unseen @ weight.T - unseen[:, kept] @ one[:, kept].T).square().mean()) for one in (weight, new)
    )
    assert after < before / 2


def test_what_unseen_examples_contradict_is_not_learned() -> None:
    rows, weight = _rows(1), torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    other = torch.cat([rows[:, :6], -rows[:, 6:]], dim=1)
    new, share = folded(weight, (_product(rows), _product(other)), torch.arange(6))
    assert torch.equal(new, weight)
    assert share == 1.0


def test_channels_that_are_never_used_do_no_harm() -> None:
    rows = _rows(1)
    rows[:, :2] = 0
    new, _ = folded(torch.randn(5, 12), (_product(rows), _product(rows)), torch.arange(6))
    assert torch.isfinite(new).all()


def _half(name: str, model: Any) -> list[Choice]:
    return [Choice(group, torch.arange(group.units // 2)) for group in mlp_groups(model.module)]


def test_bundles_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = model_of("bert"), calibration("bert")
    once, share = repaired(model, _half("bert", model), given, given.examples)
    monkeypatch.setattr(repair, "LIMIT", 1)
    again, same = repaired(model, _half("bert", model), given, given.examples)
    assert once.keys() == again.keys()
    assert len(once) == 2
    assert all(torch.equal(weight, again[name]) for name, weight in once.items())
    assert share == same


def test_one_example_repairs_nothing() -> None:
    model, given = model_of("bert"), calibration("bert", 1)
    assert repaired(model, _half("bert", model), given, given.examples) == ({}, 1.0)


def test_tied_weights_are_not_repaired() -> None:
    model, given = model_of("llama"), calibration("llama")
    choice = Choice(hidden_group(model.module), torch.arange(32))
    found, _ = repaired(model, [choice], given, given.examples)
    assert "lm_head.weight" not in found
    assert "model.layers.0.mlp.up_proj.weight" in found
