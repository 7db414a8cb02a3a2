"""Add a bias to a classifier's last layer, in place, so that what is saved loads in plain libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def apply_bias(model: Model, bias: np.ndarray) -> None:
    """Add a bias to the last linear layer of a classifier, in place: it saves and loads as before.

    Args:
        model: of any kind of student.
        bias: ``(labels,)``, what every example's logits change by.

    Raises:
        AttarError: the model's last layer is not linear with one output a label, or has no bias of its own. None is
            added: the model's library would drop it, or refuse the file, when it loads the weights.
        ValueError: the bias has another number of labels.
    """
    labels = len(model.facts["labels"])
    if np.shape(bias) != (labels,):
        raise ValueError(f"the model has {labels} labels, got a bias of shape {np.shape(bias)}")
    layers = last_layers(model)
    if any(layer.bias is None for layer in layers):
        raise AttarError(
            f"The last layer of {type(model.module).__name__} has no bias, and its library would not load one. "
            "Set distill.prior: none, or choose another student."
        )
    with torch.no_grad():
        for layer in layers:
            layer.bias.add_(torch.from_numpy(np.asarray(bias)).to(layer.bias))


def last_layers(model: Model) -> list[Any]:
    """Return the linear layers whose output is the logits; two where a model takes the mean of two heads.

    Raises:
        AttarError: there is none with one output a label.
    """
    labels = len(model.facts["labels"])
    found = [_last_linear(root, labels) for root in _heads(model)]
    layers = [layer for layer in found if layer is not None]
    if not layers:
        raise AttarError(
            f"{type(model.module).__name__} does not end in a linear layer with {labels} outputs, so its bias cannot "
            "be corrected. Set distill.prior: none, or choose another student."
        )
    return layers


def _heads(model: Model) -> list[torch.nn.Module]:
    if model.kind == "timm":
        head = model.module.get_classifier()  # type: ignore[operator]
        return list(head) if isinstance(head, tuple) else [head]
    return [model.module]


def _last_linear(root: torch.nn.Module, outputs: int) -> Any:
    layers = [part for part in root.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    if not layers:
        return None
    last = layers[-1]
    size = last.out_features if isinstance(last, torch.nn.Linear) else last.out_channels
    return last if size == outputs else None
