"""Build a small CNN or MLP from a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.settings import Build, ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class NetStudent:
    """Make plain networks for images: convolution blocks, or fully connected layers.

    A CNN's block is convolution 3×3, batch norm, ReLU; every second block, and the last, halves the image while it
    has more than 3 pixels a side. The mean over what is left goes to the classes.
    """

    def make(self, settings: ModelSettings, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return a new network with random weights (torch's seed decides them)."""
        build = settings.build or Build()
        facts: dict[str, Any] = {"build": build.model_dump(mode="json"), "shape": list(shape), "labels": list(labels)}
        facts |= {"mean": 0.5, "std": 0.5}
        return Model(_module(build, shape, len(labels)), "net", None, facts)

    def save(self, model: Model, folder: Path) -> None:
        """Write ``model.safetensors``."""
        from safetensors.torch import save_file

        state = {name: tensor.contiguous() for name, tensor in model.module.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the network that `save` wrote."""
        from safetensors.torch import load_file

        module = self.empty(facts)
        module.load_state_dict(load_file(folder / "model.safetensors"))
        return Model(module, "net", None, facts)

    def empty(self, facts: dict[str, Any]) -> torch.nn.Module:
        """Return the network that the facts describe, with random weights."""
        return _module(Build(**facts["build"]), facts["shape"], len(facts["labels"]))


def _module(build: Build, shape: Sequence[int], classes: int) -> torch.nn.Module:
    if len(shape) != 3:
        raise AttarError("`build` makes networks for images; a text task needs `model`.")
    return _mlp(build, shape, classes) if build.net == "mlp" else _cnn(build, shape, classes)


def _mlp(build: Build, shape: Sequence[int], classes: int) -> torch.nn.Module:
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    width = math.prod(shape)
    for units in build.widths:
        layers += [torch.nn.Linear(width, units), torch.nn.ReLU()]
        width = units
    return torch.nn.Sequential(*layers, torch.nn.Dropout(build.dropout), torch.nn.Linear(width, classes))


def _cnn(build: Build, shape: Sequence[int], classes: int) -> torch.nn.Module:
    channels, side = shape[0], min(shape[1:])
    layers: list[torch.nn.Module] = []
    for place, width in enumerate(build.widths):
        convolution = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
        channels = width
        if side > 3 and (place % 2 == 1 or place == len(build.widths) - 1):
            layers.append(torch.nn.MaxPool2d(2))
            side //= 2
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    if build.hidden:
        layers += [torch.nn.Linear(channels, build.hidden), torch.nn.ReLU()]
        channels = build.hidden
    return torch.nn.Sequential(*layers, torch.nn.Dropout(build.dropout), torch.nn.Linear(channels, classes))
