"""Find the stack of layers of a transformer, and keep some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def find_stack(module: torch.nn.Module) -> tuple[torch.nn.Module, str, torch.nn.ModuleList] | None:
    """Find the first list of modules that is as long as a configuration says.

    Args:
        module: a transformer with a ``config``.

    Returns:
        The module that holds the stack, the attribute's name, and the stack; None if there is none.
    """
    count = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    for holder in module.modules():
        for name, child in holder.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return holder, name, child
    return None


def layer_list(module: torch.nn.Module) -> tuple[torch.nn.Module, str, torch.nn.ModuleList]:
    """Return what `find_stack` finds.

    Raises:
        AttarError: no list of modules is as long as the configuration's ``num_hidden_layers``.
    """
    found = find_stack(module)
    if found is None:
        raise AttarError(f"`layers` cannot be used with {type(module).__name__}: it has no single stack of layers.")
    return found


def keep_layers(module: torch.nn.Module, wanted: int | tuple[int, ...]) -> tuple[int, ...]:
    """Keep some layers of a transformer, in place; it saves and loads as a shallower model of the same kind.

    Args:
        module: the model.
        wanted: see `choose_layers`.

    Returns:
        The layers kept.

    Raises:
        AttarError: the model has no stack of layers, or fewer than are wanted.
    """
    holder, name, stack = layer_list(module)
    try:
        kept = choose_layers(wanted, len(stack))
    except ValueError as error:
        raise AttarError(f"layers cannot be kept: {error}.") from error
    setattr(holder, name, torch.nn.ModuleList([stack[i] for i in kept]))
    for place, layer in enumerate(getattr(holder, name)):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # where the layer's keys and values lie in a cache
                part.layer_idx = place
    config: Any = module.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    return kept


def choose_layers(wanted: int | tuple[int, ...], available: int) -> tuple[int, ...]:
    """Return which layers to keep.

    Args:
        wanted: how many, spread evenly with the first and the last among them, or which.
        available: layers the model has.

    Raises:
        ValueError: more are wanted than there are.

    Example:
        >>> choose_layers(3, 6)
        (0, 2, 5)
        >>> choose_layers(1, 6)
        (0,)
    """
    chosen = wanted if isinstance(wanted, tuple) else _spread(wanted, available)
    if len(chosen) > available or max(chosen) >= available:
        raise ValueError(f"the model has {available} layers (0 to {available - 1}), got {list(chosen)}")
    return tuple(sorted(chosen))


def _spread(count: int, available: int) -> tuple[int, ...]:
    if count > available:
        return tuple(range(count))
    if count == 1:
        return (0,)
    return tuple(int(i * (available - 1) / (count - 1)) for i in range(count))
