from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from attar.errors import AttarError
from attar.stages.checkpoint import Progress, load_best, load_checkpoint, save_best, save_checkpoint


class Tied(torch.nn.Module):
    """Share one matrix between the embedding and two heads, and keep a buffer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.head = torch.nn.Linear(width, 10, bias=False)
        self.other = torch.nn.Linear(width, 10)
        self.head.weight = self.embed.weight
        self.other.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.norm(self.embed(ids))
        return self.head(states) + self.other(states)


def _trained(seed: int, steps: int, width: int = 4) -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = Tied(width)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(steps):
        _step(module, optimizer)
    return module, optimizer


def _step(module: Tied, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.functional.cross_entropy(module(torch.arange(10)), torch.arange(10)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    module, optimizer = _trained(0, 3)
    save_checkpoint(tmp_path, module, optimizer, Progress(3, [{"loss": 1.0}], [0.5, -1.0], 2, 1))
    other, fresh = _trained(9, 1)
    state = load_checkpoint(tmp_path, other, fresh)
    assert state == Progress(3, [{"loss": 1.0}], [0.5, -1.0], 2, 1)
    assert other.head.weight is other.embed.weight is other.other.weight
    for _ in range(2):
        _step(module, optimizer)
        _step(other, fresh)
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_no_checkpoint_starts_at_the_beginning(tmp_path: Path) -> None:
    module, optimizer = _trained(0, 0)
    assert load_checkpoint(tmp_path / "nothing", module, optimizer) == Progress()


def test_a_new_checkpoint_replaces_the_old(tmp_path: Path) -> None:
    module, optimizer = _trained(0, 1)
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, module, optimizer, Progress(step))
    assert [p.name for p in tmp_path.iterdir()] == ["step-11"]
    assert load_checkpoint(tmp_path, module, optimizer).step == 11


def test_the_newest_is_taken_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = _trained(0, 1)
    monkeypatch.setattr("attar.stages.checkpoint.remove", lambda path: None)  # killed before the old one was removed
    save_checkpoint(tmp_path, module, optimizer, Progress(9))
    save_checkpoint(tmp_path, module, optimizer, Progress(10))
    assert len(list(tmp_path.iterdir())) == 2
    assert load_checkpoint(tmp_path, module, optimizer).step == 10


def test_kill_before_the_rename_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = _trained(0, 1)
    save_checkpoint(tmp_path, module, optimizer, Progress(1))
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, module, optimizer, Progress(2))
    assert load_checkpoint(tmp_path, module, optimizer).step == 1
    monkeypatch.undo()
    save_checkpoint(tmp_path, module, optimizer, Progress(2))
    assert load_checkpoint(tmp_path, module, optimizer).step == 2


@pytest.mark.parametrize("harm", ["shape", "damage", "names"])
def test_a_checkpoint_that_does_not_fit(harm: str, tmp_path: Path) -> None:
    module, optimizer = _trained(0, 1)
    save_checkpoint(tmp_path, module, optimizer, Progress(1))
    other: torch.nn.Module = module
    if harm == "shape":
        other, optimizer = _trained(0, 0, width=6)
    elif harm == "names":
        other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    else:
        (tmp_path / "step-1" / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(AttarError, match=r"does not fit. Remove it"):
        load_checkpoint(tmp_path, other, optimizer)


def test_best_weights_come_back_tied(tmp_path: Path) -> None:
    module, optimizer = _trained(0, 2)
    best = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_best(tmp_path, module)
    _step(module, optimizer)
    assert not torch.equal(module.embed.weight, best["embed.weight"])
    load_best(tmp_path, module)
    assert all(torch.equal(tensor, best[name]) for name, tensor in module.state_dict().items())
    assert module.head.weight is module.embed.weight
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
