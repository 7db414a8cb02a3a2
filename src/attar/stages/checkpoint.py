"""Save and restore training: weights, optimizer, history; tensors as safetensors, the rest as JSON.

Weights that are frozen are what they were when training began: they are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.errors import AttarError
from attar.optional import lazy
from attar.store.files import disk_errors, read_json, remove, sync_file, sync_folder, write_json

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass
class Progress:
    """Say how far training is.

    Args:
        step: steps done.
        history: rows for the learning curve.
        best: the best validation so far: ``(score, -loss)`` and its step.
        stale: validations since then.
        drawn: what the lesson's `draw` remembers.
        seconds: of training, over all tries.
        clock: a step at which the validation split was looked at -> seconds until then.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: list[float] | None = None
    best_step: int = 0
    stale: int = 0
    drawn: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    clock: dict[str, float] = field(default_factory=dict)


def frozen_names(module: torch.nn.Module) -> frozenset[str]:
    """Return the names of all weights that do not learn."""
    every = module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in every if not parameter.requires_grad)


def save_checkpoint(
    folder: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    without: frozenset[str] = frozenset(),
) -> None:
    """Write a checkpoint beside the old one, rename it into place, then remove the old one.

    Args:
        folder: of the checkpoints.
        module: what is trained, with all that changes beside it.
        optimizer: its state is saved.
        progress: how far training is.
        without: names of weights that are left out, because they stay what they were.
    """
    with disk_errors(folder):
        new = folder / f"step-{progress.step}.tmp"
        remove(new)
        new.mkdir(parents=True)
        _save(new / "model.safetensors", _state(module, without))
        _save(new / "optimizer.safetensors", _flatten(optimizer.state_dict()["state"]))
        write_json(new / "progress.json", asdict(progress))
        target = folder / f"step-{progress.step}"
        if target.is_dir():  # of the same step, so the same: the only checkpoint is never taken away first
            remove(new)
        else:
            os.replace(new, target)
        sync_folder(folder)
    for old in folder.glob("step-*"):
        if old != target:
            remove(old)


def load_checkpoint(
    folder: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    without: frozenset[str] = frozenset(),
) -> Progress:
    """Restore the newest checkpoint of a folder into module and optimizer; without one, start at step 0.

    Args:
        folder: of the checkpoints.
        module: as it was made; the weights left out are taken from it.
        optimizer: its state is restored.
        without: what `save_checkpoint` left out.

    Raises:
        AttarError: the checkpoint does not fit the model.
    """
    found = sorted((p for p in folder.glob("step-*") if p.suffix != ".tmp"), key=lambda p: int(p.name.split("-")[1]))
    if not found:
        return Progress()
    newest = found[-1]
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _restore(module, newest / "model.safetensors", without)
        state = optimizer.state_dict()
        state["state"] = _unflatten(load_file(newest / "optimizer.safetensors"))
        optimizer.load_state_dict(state)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise AttarError(f"The checkpoint {newest} does not fit. Remove it to train from the start.") from error
    return Progress(**read_json(newest / "progress.json"))


def save_best(folder: Path, module: torch.nn.Module, without: frozenset[str] = frozenset()) -> None:
    """Write the best weights so far, whole or not at all; ``without`` those that stay what they were."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".best.tmp"
    with disk_errors(folder):
        _save(beside, _state(module, without))
        os.replace(beside, folder / "best.safetensors")


def load_best(folder: Path, module: torch.nn.Module, without: frozenset[str] = frozenset()) -> None:
    """Restore the weights of `save_best`."""
    _restore(module, folder / "best.safetensors", without)


def _state(module: torch.nn.Module, without: frozenset[str]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name not in without}


def _restore(module: torch.nn.Module, path: Path, without: frozenset[str]) -> None:
    from safetensors.torch import load_file

    tensors = load_file(path)
    if tensors.keys() != _untied(_state(module, without)).keys():
        raise ValueError(f"{path} holds the weights of another network")
    module.load_state_dict(tensors, strict=False)  # the names left out are tied to those that are there, or frozen


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(_untied(tensors), path)
    sync_file(path)


def _untied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: set[int] = set()
    own: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.data_ptr() in seen:  # tied weights are one tensor; loading restores both names
            continue
        seen.add(tensor.data_ptr())
        own[name] = tensor.detach().contiguous()
    return own


def _flatten(state: Mapping[Any, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, parts in state.items() for name, value in parts.items()
    }


def _unflatten(tensors: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, part = name.partition(".")
        state.setdefault(int(index), {})[part] = tensor
    return state
