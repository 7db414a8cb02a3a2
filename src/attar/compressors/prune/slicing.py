"""Cut units out of a transformer: the smaller network is one that plain `transformers` makes from its config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.compressors.prune.anatomy import Group, changed_config, shapes
from attar.compressors.prune.sizes import KNOWN
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Choice:
    """Hold which units of a group stay.

    Args:
        group: the group.
        kept: of its units, ascending.
        kept_kv: of its KV heads, where those are fewer; None if the group has none.
    """

    group: Group
    kept: torch.Tensor
    kept_kv: torch.Tensor | None = None

    def of(self, units: int) -> torch.Tensor:
        """Return which of so many units stay: of the group's own, or of its KV heads."""
        if units == self.group.units or self.kept_kv is None:
            return self.kept
        return self.kept_kv


def network_of(model: Model) -> Any:
    """Return the model of `transformers` inside a model.

    Raises:
        AttarError: it is of another kind.
    """
    network: Any = getattr(model.module, "lm", model.module)
    if model.kind == "prompted":
        raise AttarError("A model cannot be cut under a trained prompt, which has its width. Put the step before it.")
    if model.kind == "factored":
        raise AttarError("A model of low-rank factors cannot be cut by this step. Put it before low_rank.")
    if not hasattr(network, "save_pretrained"):
        raise AttarError(f"Parts of a model of kind '{model.kind}' cannot be cut by this step. {KNOWN}")
    return network


def spread(units: torch.Tensor, block: int) -> torch.Tensor:
    """Return the places of all members of some units, each a block of neighbors.

    Example:
        >>> import torch
        >>> spread(torch.tensor([0, 2]), 2).tolist()
        [0, 1, 4, 5]
    """
    return (units[:, None] * block + torch.arange(block, device=units.device)).flatten()


def cut(model: Model, choices: Iterable[Choice], changes: Mapping[str, int], state: Mapping[str, torch.Tensor]) -> None:
    """Put a network in the place of a model's own that has the chosen units alone.

    Args:
        model: of `transformers`; its module is replaced, or, in a reader of label words, the language model inside.
        choices: which units stay.
        changes: field of the configuration -> new size.
        state: the weights that are cut, by name; those of the model, or repaired ones.

    Raises:
        AttarError: the configuration would not give the shapes that are left; nothing was changed.
    """
    network = network_of(model)
    places: dict[str, dict[int, torch.Tensor]] = {}
    for choice in choices:
        for one in choice.group.cuts:
            block = state[one.name].shape[one.dim] // one.units
            places.setdefault(one.name, {})[one.dim] = spread(choice.of(one.units), block)
    left = {name: _taken(tensor, places.get(name, {})) for name, tensor in state.items()}
    wanted = shapes(network, changes)
    wrong = [name for name, shape in wanted.items() if name not in left or left[name].shape != shape]
    if wrong or len(wanted) != len(left):
        first = wrong[0] if wrong else next(name for name in left if name not in wanted)
        raise AttarError(
            f"Parts of {type(network).__name__} cannot be cut: its config does not say the shape of {first}. {KNOWN}"
        )
    fresh = _made(network, changes, left)
    if model.module is network:
        model.module = fresh
    else:
        model.module.lm = fresh


def _taken(tensor: torch.Tensor, places: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for dim, kept in places.items():
        tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor


def _made(network: Any, changes: Mapping[str, int], state: Mapping[str, torch.Tensor]) -> Any:
    """Return a network of the same kind with other sizes and these weights, in the old one's mode and place."""
    from transformers import initialization

    with torch.random.fork_rng(devices=[]), initialization.no_init_weights():
        fresh = type(network)(changed_config(network, changes))
    fresh.tie_weights()
    own = next(network.parameters())
    fresh.to(dtype=own.dtype, device=own.device)
    fresh.load_state_dict(dict(state))
    trained = {name: part.requires_grad for name, part in network.named_parameters()}
    for name, part in fresh.named_parameters():
        part.requires_grad_(trained[name])
    if getattr(network, "generation_config", None) is not None:
        fresh.generation_config = network.generation_config
    return fresh.train(network.training)
