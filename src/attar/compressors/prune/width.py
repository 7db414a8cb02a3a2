"""Make a transformer narrower: fewer channels in its MLPs, fewer heads, fewer channels between its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attar.compressors.prune.anatomy import Group, attention_groups, hidden_group, mlp_groups
from attar.compressors.prune.importance import Importance, scores_of
from attar.compressors.prune.narrowed import Shares, narrowed
from attar.compressors.prune.norms import normed
from attar.compressors.prune.repair import repaired
from attar.compressors.prune.sizes import sizes_of
from attar.compressors.prune.slicing import Choice, cut, network_of
from attar.core.compressing import Calibration, finite, unquantized
from attar.core.nouns import Model, Plan
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Width:
    """Remove the least important channels and heads, as many in every layer.

    What is left has shapes that its ``config.json`` says, so plain `transformers` loads it. Channels inside an MLP and
    heads are chosen in each layer by themselves; hidden channels are the same in all layers. A model whose heads have
    no width of their own in its config (BERT, RoBERTa, DistilBERT, BART) loses heads together with hidden channels.

    Args:
        settings: see `Width.Settings`.

    Reference:
        Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation".
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "text-generation", "image-classification"})
    cuts: ClassVar[bool] = True

    class Settings(Settings):
        """Set what is removed, and how it is chosen."""

        mlp: float | None = Field(None, gt=0, lt=1, description="share of the channels inside the MLPs to remove")
        heads: float | None = Field(
            None, gt=0, lt=1, description="share of the query heads to remove: as many in every group of a KV head"
        )
        kv_heads: float | None = Field(
            None, gt=0, lt=1, description="share of the KV heads to remove, with their query heads"
        )
        hidden: float | None = Field(
            None, gt=0, lt=1, description="share of the channels between the layers to remove, everywhere the same"
        )
        round_to: int = Field(
            16, ge=1, le=4096, description="channels left are a multiple of it; 256 where K-quants follow"
        )
        importance: Importance = Field(
            "activation",
            description="what stays: by what it gives (activation), by what the loss loses (taylor; one more pass and "
            "its gradient), or by its weights (magnitude)",
        )
        repair: bool = Field(
            True, description="what read the removed channels makes up for them from the kept ones (ridge regression)"
        )
        examples: int = Field(64, ge=1, le=100000, description="training examples that are looked at")

    def __init__(self, settings: Width.Settings) -> None:
        self.settings = settings

    @property
    def _shares(self) -> Shares:
        own = self.settings
        return Shares(own.mlp, own.heads, own.kv_heads, own.hidden, own.round_to)

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration with its new sizes.

        Args:
            config: of the model, as ``config.json`` holds it.
            to: the format of the bundle; every format holds what is left.

        Raises:
            AttarError: see `attar.compressors.prune.narrowed.narrowed`; or the architecture is unknown.

        Example:
            >>> bert = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
            >>> Width(Width.Settings(hidden=0.5)).legal(bert, "onnx")["num_attention_heads"]
            2
        """
        sizes = sizes_of(config)
        named = {sizes.family.width: next(iter(sizes.width.values()))} if sizes.family.width else {}
        return {**config, **named, **narrowed(config, self._shares)}

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Narrow a model: its network is replaced by a smaller one.

        Args:
            model: a classifier or language model of `transformers`, or a reader of label words.
            calibration: its examples are read, and its loss is asked for ``taylor``.

        Returns:
            The model, and what was done.

        Raises:
            AttarError: see `legal`; or the model is quantized, or its weights are no numbers.
        """
        network = network_of(model)
        unquantized(model, "width")
        finite(model)
        changes = narrowed(network.config.to_dict(), self._shares)
        before = _facts(model, changes)
        groups = _groups(network, changes)
        examples = calibration.some(self.settings.examples)
        scores = scores_of(self.settings.importance, model, groups, calibration, examples)
        choices = [_chosen(network, group, score, changes) for group, score in zip(groups, scores, strict=True)]
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        notes = []
        if self.settings.repair:
            mended, left = repaired(model, choices, calibration, examples)
            state |= mended
            notes.append(f"repair leaves {left:.0%} of the difference in what reads the removed channels")
        for choice in choices:
            if choice.group.field == sizes_of(network.config.to_dict()).family.hidden:
                state |= normed(model, choice, calibration, examples if self.settings.repair else None)
        cut(model, choices, changes, state)
        kept = ", ".join(f"{field} {before[field]:g} to {size}" for field, size in changes.items())
        return model, Plan("width", before, _facts(model, changes), (f"{kept}, by {self.settings.importance}", *notes))


def _groups(network: Any, changes: Mapping[str, int]) -> list[Group]:
    """Return the groups of which units are removed."""
    family = sizes_of(network.config.to_dict()).family
    found = mlp_groups(network) if set(family.mlp) & changes.keys() else []
    if {*family.heads, family.kv_heads} & changes.keys():
        found += attention_groups(network)
    return [*found, hidden_group(network)] if family.hidden in changes else found


def _chosen(network: Any, group: Group, scores: torch.Tensor, changes: Mapping[str, int]) -> Choice:
    """Return the most important units, for heads as many in every group of a KV head."""
    sizes = sizes_of(network.config.to_dict())
    count = changes.get(group.field, group.units)
    if group.field not in sizes.heads:
        return Choice(group, best(scores, count))
    kv_field = sizes.family.kv_heads
    shared = sizes.kv_heads if kv_field else group.units
    most = changes.get(kv_field, shared) if kv_field else count
    kept_kv = best(scores.unflatten(0, (shared, -1)).sum(1), most)
    per_group = group.units // shared
    left = count // len(kept_kv)
    kept = [place * per_group + best(scores[place * per_group : (place + 1) * per_group], left) for place in kept_kv]
    return Choice(group, torch.cat(kept), kept_kv)


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the largest scores, ascending; of equals, the first.

    Example:
        >>> import torch
        >>> best(torch.tensor([1.0, 3.0, 2.0, 3.0]), 2).tolist()
        [1, 3]
    """
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values


def _facts(model: Model, changes: Mapping[str, int]) -> dict[str, float]:
    network = network_of(model)
    sizes = {field: int(getattr(network.config, field)) for field in changes}
    return {"parameters": sum(part.numel() for part in network.parameters()), **sizes}
