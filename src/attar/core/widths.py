"""Give a network the widths of a state dict: what a library builds by name has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FACT = "channels"
"""The fact of a model that it has other widths than what its library builds."""


def fit(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Resize a network's layers to the shapes of a state dict, in place, and load that.

    Args:
        module: convolutions, linear layers and norms; parameters of other modules are resized too.
        state: name -> tensor, with the network's own names.

    Raises:
        RuntimeError: the names differ, or a shape has another number of dimensions.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> fit(net, torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).state_dict())
        >>> net
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    for name, part in module.named_modules():
        own = {**part._parameters, **part._buffers}
        for key, tensor in own.items():
            new = state.get(f"{name}.{key}".lstrip("."))
            if tensor is None or new is None or new.shape == tensor.shape or new.ndim != tensor.ndim:
                continue
            if key == "weight":
                _resize(part, new.shape)
            empty = torch.empty(new.shape, dtype=tensor.dtype, device=tensor.device)
            setattr(part, key, torch.nn.Parameter(empty) if key in part._parameters else empty)
    module.load_state_dict(dict(state))


def _resize(part: Any, shape: torch.Size) -> None:
    """Set what a layer knows of its sizes to those of its weight."""
    if isinstance(part, torch.nn.Conv2d):
        if part.groups > 1 and part.groups == part.in_channels:  # one group a channel, however many there are
            part.groups = shape[0] * part.in_channels // part.out_channels
        part.in_channels, part.out_channels = shape[1] * part.groups, shape[0]
    elif isinstance(part, torch.nn.Linear):
        part.out_features, part.in_features = shape
    elif isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
        part.num_features = shape[0]
    elif isinstance(part, torch.nn.GroupNorm):
        part.num_channels = shape[0]
    elif isinstance(part, torch.nn.LayerNorm):
        part.normalized_shape = tuple(shape)
