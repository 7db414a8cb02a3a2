"""Make image classifiers of `timm` and `torchvision` by their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core import widths
from attar.core.nouns import Model
from attar.errors import AttarError, did_you_mean
from attar.optional import lazy, require
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@contextmanager
def _fetching(library: str, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each library and each of its download clients raises its own kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AttarError(
            f"The pretrained weights of {library}:{name} cannot be loaded: {reason} Set pretrained: false to start "
            "from random weights, or give a folder as `model`."
        ) from error


class _NamedStudent:
    library = ""

    def _new(self, name: str, classes: int, channels: int, pretrained: bool) -> torch.nn.Module:
        raise TypeError(f"{type(self).__name__} makes no models")

    def make(self, settings: ModelSettings, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return the named network with a head for the labels (torch's seed decides new weights)."""
        name = str(settings.model).partition(":")[2]
        if not shape:
            raise AttarError(f"{self.library}:{name} is a model for images; a text task needs a text model.")
        facts = {"name": name, "shape": list(shape), "labels": list(labels), "mean": 0.5, "std": 0.5}
        return Model(self._new(name, len(labels), int(shape[0]), settings.pretrained), self.library, None, facts)

    def save(self, model: Model, folder: Path) -> None:
        """Write ``model.safetensors`` in the library's own names; pruned channels are seen in the shapes alone."""
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in model.module.state_dict().items()}, folder / "model.safetensors")

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the network that `save` wrote."""
        from safetensors.torch import load_file

        module, state = self.empty(facts), load_file(folder / "model.safetensors")
        if widths.FACT in facts:
            widths.fit(module, state)
        else:
            module.load_state_dict(state)
        return Model(module, self.library, None, facts)

    def empty(self, facts: dict[str, Any]) -> torch.nn.Module:
        """Return the network that the library builds by the name in the facts, with random weights."""
        return self._new(facts["name"], len(facts["labels"]), int(facts["shape"][0]), False)


class TimmStudent(_NamedStudent):
    """Make models of `timm`: ``timm:resnet18``."""

    library = "timm"

    def _new(self, name: str, classes: int, channels: int, pretrained: bool) -> torch.nn.Module:
        timm = require("timm", "vision", f"The model 'timm:{name}'")
        if not timm.is_model(name):
            raise AttarError(f"timm has no model '{name}'.{did_you_mean(name, timm.list_models())}")
        with _fetching("timm", name) if pretrained else nullcontext():
            module: torch.nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=classes, in_chans=channels
            )
        return module


class TorchvisionStudent(_NamedStudent):
    """Make models of `torchvision`: ``torchvision:mobilenet_v3_small``; 3 channels."""

    library = "torchvision"

    def _new(self, name: str, classes: int, channels: int, pretrained: bool) -> torch.nn.Module:
        models = require("torchvision.models", "vision", f"The model 'torchvision:{name}'")
        if name not in models.list_models(module=models):
            known = models.list_models(module=models)
            raise AttarError(f"torchvision has no model '{name}'.{did_you_mean(name, known)}")
        if channels != 3:
            raise AttarError(
                f"torchvision:{name} reads 3 channels, but the images have {channels}. Set data.channels: 3."
            )
        if not pretrained:
            plain: torch.nn.Module = models.get_model(name, num_classes=classes)
            return plain
        with _fetching("torchvision", name):  # torchvision reads its files with weights_only, which runs no code
            source = models.get_model(name, weights="DEFAULT").state_dict()
        module: torch.nn.Module = models.get_model(name, num_classes=classes)
        own = module.state_dict()
        module.load_state_dict({k: source[k] if source[k].shape == v.shape else v for k, v in own.items()})
        return module
