"""Remove channels of convolutional networks: fewer multiplications, and a smaller dense network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.prunable import ready
from attar.core.compressing import Calibration
from attar.core.nouns import Model, Plan
from attar.core.widths import FACT
from attar.errors import AttarError
from attar.optional import lazy, require
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

KINDS = ("net", "timm", "torchvision")
CANNOT = ("hf", "gguf")
"""Formats that hold no network of images with widths of its own."""
MOST = 0.95
"""Of a layer's channels that are removed at most."""
ROUNDS = 10
"""Ratios that are tried to meet a share of the multiplications."""
NEAR = 0.005
"""A share of the multiplications that is this near needs no further try."""


class Channels:
    """Remove the channels of a convolutional network that matter least, with all that hangs on them.

    What one layer loses, those that read it lose too: `torch-pruning` finds the groups. The first convolution reads,
    and the classifier writes, what they did before. A network of the kind ``net`` says its new widths in its settings.
    `timm` and `torchvision` build a network by its name with the widths of that name: the file that is saved holds
    the library's own names with other shapes, which attar fits, and the exported graph needs nothing of it.

    Args:
        settings: see `Channels.Settings`.

    Reference:
        Fang et al. 2023, "DepGraph"; Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
        equation 8, for ``taylor``.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    cuts: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})

    class Settings(Settings):
        """Set how many channels go, and which."""

        macs: float | None = Field(
            None, gt=0, lt=1, description="share of the multiplications to remove; 0.5 if nothing is set"
        )
        ratio: float | None = Field(None, gt=0, lt=1, description="in place of macs: share of the channels to remove")
        importance: Literal["magnitude", "taylor"] = Field(
            "magnitude", description="of a channel: the norm of its weights, or what the loss changes by without it"
        )
        scope: Literal["uniform", "global"] = Field(
            "uniform", description="every layer loses the same share, or the channels of all layers compete"
        )
        round_to: int = Field(8, ge=1, description="widths stay multiples of it, which kernels are made for")
        examples: int = Field(256, ge=1, description="training examples whose loss `taylor` looks at")

        @model_validator(mode="after")
        def _one_size(self) -> Channels.Settings:
            if self.macs is not None and self.ratio is not None:
                raise ValueError("channels takes macs or ratio, not both")
            return self

        @property
        def share(self) -> float | None:
            """Return the share of the multiplications to remove; None where the channels are counted."""
            return 0.5 if self.macs is None and self.ratio is None else self.macs

    def __init__(self, settings: Channels.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration as it is: networks of images have none.

        Raises:
            AttarError: the model is one of `transformers`, or the format holds no such network.
        """
        if config:
            raise AttarError(
                f"channels prunes convolutional networks ({', '.join(KINDS)}), not models of transformers such as "
                f"{config.get('model_type', 'this one')}. Take width or depth."
            )
        if to in CANNOT:
            raise AttarError(f"channels leaves a network with widths of its own, which {to} cannot express: use onnx.")
        return config

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Remove channels.

        Args:
            model: a convolutional network of the kinds ``net``, ``timm`` and ``torchvision``.
            calibration: its examples and loss are used by ``taylor``.

        Returns:
            The model with a smaller network, and what was done.

        Raises:
            AttarError: the network is no such one or cannot be followed; rounding leaves nothing to remove; or the
                library is not installed.
        """
        ready(model, "channels")
        _convolutional(model)
        require("torch_pruning", "prune", "channels")
        pixels = torch.zeros((2, *model.facts["shape"]))
        cutter = _Cutter(self.settings, model, pixels, self._gradients(model, calibration))
        before = facts_of(model.module, pixels)
        smaller = cutter.cut(self.settings.ratio) if self.settings.ratio else self._search(cutter, before["macs"])
        after = facts_of(smaller, pixels)
        if after["parameters"] == before["parameters"]:
            raise AttarError(
                f"channels removed nothing: no layer can lose the share asked for and stay a multiple of "
                f"{self.settings.round_to}. Set a larger share, or a smaller round_to."
            )
        facts = _described(model, smaller)
        return Model(smaller, model.kind, None, facts), Plan("channels", before, after, _notes(before, after, model))

    def _search(self, cutter: _Cutter, macs: float) -> torch.nn.Module:
        """Return the network whose multiplications are nearest to those wanted."""
        wanted = 1 - (self.settings.share or 0.0)
        tried: dict[float, torch.nn.Module] = {}

        def too_many(cut: torch.nn.Module) -> bool:
            """Remember a network by how far it is, and tell whether more must go."""
            left = count_macs(cut, cutter.pixels) / macs
            tried[abs(left - wanted)] = cut
            return left > wanted

        low, high, few, many = 0.0, 1.0, 0, cutter.layers
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            low, high = (middle, high) if too_many(cutter.cut(middle)) else (low, middle)
            if min(tried) < NEAR:
                return tried[min(tried)]
        while many - few > 1:  # all widths step down together at some ratio: let only the last layers take the step
            count = (few + many) // 2
            few, many = (count, many) if too_many(cutter.cut(low, high, count)) else (few, count)
        return tried[min(tried)]

    def _gradients(self, model: Model, calibration: Calibration) -> dict[str, torch.Tensor]:
        """Return the mean gradient of the loss for each parameter; nothing where none is needed."""
        if self.settings.importance != "taylor":
            return {}
        if calibration.loss is None:
            raise AttarError("importance: taylor needs the loss that the model is trained by. Take magnitude.")
        model.module.eval()
        model.module.zero_grad(set_to_none=True)
        examples = calibration.some(self.settings.examples)
        calibration.loss(model, examples).backward()
        found = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
        model.module.zero_grad(set_to_none=True)
        return found


def _convolutional(model: Model) -> None:
    """Refuse what is no convolutional network."""
    from attar.core.places import FUSED, PROJECTIONS

    attention = {*FUSED, *(name for names in PROJECTIONS.values() for name in names if len(name) > 1)}
    parts = {name.rpartition(".")[2] for name, _ in [*model.module.named_modules(), *model.module.named_parameters()]}
    if model.kind not in KINDS or attention & parts:
        raise AttarError(
            f"channels prunes networks of convolutions or of linear layers ({', '.join(KINDS)}), and "
            f"{type(model.module).__name__} ({model.kind}) has attention or is of another kind. Take width or depth."
        )


@dataclass(frozen=True)
class _Cutter:
    """Cut copies of a network.

    Args:
        settings: of the step.
        model: stays as it is.
        pixels: what the network reads.
        gradients: name of a parameter -> its gradient, for ``taylor``.
    """

    settings: Channels.Settings
    model: Model
    pixels: torch.Tensor
    gradients: Mapping[str, torch.Tensor]

    @property
    def module(self) -> torch.nn.Module:
        """Return the network."""
        return self.model.module

    @property
    def layers(self) -> int:
        """Return the number of layers that can lose channels."""
        return len(_layers(self.module)) - 1

    def cut(self, ratio: float, higher: float = 0.0, last: int = 0) -> torch.nn.Module:
        """Return a copy without a share of its channels.

        Args:
            ratio: the share, of each layer or of all.
            higher: the share of the last layers.
            last: how many lose that.

        Raises:
            AttarError: the library cannot follow the network, or what it leaves does not run.
        """
        import torch_pruning

        copied = copy.deepcopy(self.module).eval()
        for name, parameter in copied.named_parameters():
            parameter.requires_grad_(True)  # the library follows gradients from the outputs
            parameter.grad = self.gradients.get(name)
        importance: Any = torch_pruning.importance
        head = last_layer(copied)
        others = [layer for layer in _layers(copied) if layer is not head]
        kind = importance.GroupTaylorImportance if self.gradients else importance.GroupMagnitudeImportance
        free = {name: parameter.requires_grad for name, parameter in self.module.named_parameters()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch_pruning.BasePruner(
                    copied,
                    self.pixels,
                    kind(),
                    global_pruning=self.settings.scope == "global",
                    pruning_ratio=ratio,
                    pruning_ratio_dict=dict.fromkeys(others[len(others) - last :], higher),
                    max_pruning_ratio=MOST,
                    ignored_layers=[head],
                    round_to=self.settings.round_to,
                ).step()
            with torch.no_grad():
                copied(self.pixels)
        except Exception as error:  # the library raises whatever its tracing meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AttarError(
                f"channels cannot follow {type(self.module).__name__}: {reason} "
                "Choose a network such as a ResNet, MobileNet or VGG, or leave the step out."
            ) from error
        for name, parameter in copied.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(free[name])
        return copied.train(self.module.training)


def _layers(module: torch.nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]


def last_layer(module: torch.nn.Module) -> torch.nn.Module:
    """Return the layer that gives the classes: the last linear layer, or the last convolution without one."""
    layers = _layers(module)
    return ([layer for layer in layers if isinstance(layer, torch.nn.Linear)] or layers)[-1]


def _described(model: Model, smaller: torch.nn.Module) -> dict[str, Any]:
    """Return the facts by which the smaller network is built again."""
    if model.kind != "net":
        return {**model.facts, FACT: True}
    widths = [len(part.weight) for part in _layers(smaller)[:-1]]
    build = dict(model.facts["build"])
    if build["hidden"] and build["net"] == "cnn":
        build["hidden"] = widths.pop()
    return {**model.facts, "build": {**build, "widths": widths}}


def facts_of(module: torch.nn.Module, pixels: torch.Tensor) -> dict[str, float]:
    """Return parameters, channels of all layers, and multiplications an image."""
    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "channels": sum(len(layer.weight) for layer in _layers(module)),
        "macs": count_macs(module, pixels),
    }


def count_macs(module: torch.nn.Module, pixels: torch.Tensor) -> float:
    """Return the multiplications of convolutions and linear layers for one image of ``pixels (batch, ...)``.

    Example:
        >>> import torch
        >>> count_macs(torch.nn.Linear(3, 4), torch.zeros(2, 3))
        12.0
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(pixels)
    return float(counter.get_total_flops()) / 2 / len(pixels)


def _notes(before: Mapping[str, float], after: Mapping[str, float], model: Model) -> tuple[str, ...]:
    def lost(name: str) -> float:
        """Return a fact's loss in percent."""
        return 100 * (1 - after[name] / before[name])

    notes = [
        f"{lost('macs'):.1f} % of the multiplications, {lost('channels'):.1f} % of the channels and "
        f"{lost('parameters'):.1f} % of the parameters are gone"
    ]
    if model.kind != "net":
        notes.append(
            f"{model.kind} builds {model.facts['name']} with its own widths: load the file with attar, or use ONNX"
        )
    return tuple(notes)
