"""Correct norms whose channels are cut, so that they give the kept ones what they gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attar.compressors.activations import batches, tokens
from attar.compressors.prune.slicing import Choice, network_of
from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def normed(
    model: Model, choice: Choice, calibration: Calibration, examples: Examples | None
) -> dict[str, torch.Tensor]:
    """Return the weights of the norms over hidden channels, by name, so that they give the kept ones what they gave.

    A norm divides by the size of all channels. With fewer, its weight is multiplied by the mean of the new size over
    the old, and the bias of a LayerNorm takes up the change of the mean. Without examples a root mean square norm is
    corrected as if the removed channels had carried nothing, and others are left.

    Args:
        model: is left as it was.
        choice: which hidden channels stay.
        calibration: its task reads the examples.
        examples: what the model reads; None for none.

    Raises:
        AttarError: a norm is of a kind that is not known.
    """
    network = network_of(model)
    owners = {cut.name.rpartition(".")[0] for cut in choice.group.cuts}
    norms = {name: part for name in owners if _is_norm(part := network.get_submodule(name))}
    found: dict[str, torch.Tensor] = {}
    changes = _measured(model, norms, choice.kept, calibration, examples) if examples is not None else {}
    for name, norm in norms.items():
        plain = 1.0 if isinstance(norm, torch.nn.LayerNorm) else (choice.group.units / len(choice.kept)) ** 0.5
        factor, shift = changes.get(name, (plain, 0.0))
        weight = norm.weight.detach()
        found[f"{name}.weight"] = weight * factor
        if getattr(norm, "bias", None) is not None:
            found[f"{name}.bias"] = norm.bias.detach() + weight * shift
    return found


def _is_norm(part: Any) -> bool:
    if isinstance(part, torch.nn.LayerNorm):
        return True
    if isinstance(part, torch.nn.Linear | torch.nn.Embedding) or getattr(part, "weight", None) is None:
        return False
    if part.weight.ndim != 1:
        return False
    ones = torch.ones(1, len(part.weight), dtype=part.weight.dtype, device=part.weight.device)
    with torch.no_grad():  # some families hold the weight less 1
        same = torch.allclose(part(ones)[0].float(), part.weight.float(), rtol=1e-2, atol=1e-3)
    if not same:
        raise AttarError(
            f"hidden channels cannot be cut: {type(part).__name__} is no norm that multiplies by its weight. Cut mlp "
            "channels, heads or layers."
        )
    return True


def _measured(
    model: Model, norms: Mapping[str, Any], kept: torch.Tensor, calibration: Calibration, examples: Examples
) -> dict[str, tuple[float, float]]:
    """Return of each norm the mean of new size over old, and of the move of the mean over the old size."""
    sums: dict[str, list[torch.Tensor]] = {}
    was_training = model.module.training
    model.module.eval()
    try:
        with _watching(norms, kept, sums) as masks, torch.no_grad():
            for batch in batches(model, calibration.task, examples, "reading norms"):
                masks[0] = tokens(batch)
                calibration.task.rows(model, batch)
    finally:
        model.module.train(was_training)
    found = {}
    for name, parts in sums.items():
        factor, shift = torch.cat(parts).double().mean(0).tolist()
        found[name] = (factor, shift)
    return found


@contextmanager
def _watching(
    norms: Mapping[str, Any], kept: torch.Tensor, sums: dict[str, list[torch.Tensor]]
) -> Iterator[list[torch.Tensor | None]]:
    masks: list[torch.Tensor | None] = [None]

    def hook(name: str, centered: bool) -> Any:
        """Return a hook that notes how a norm's size and mean change, for each token ``(tokens, 2)``."""

        def note(_: Any, args: Any) -> None:
            """Note what one pass shows."""
            rows = args[0].detach().float().flatten(0, -2)
            if masks[0] is not None and masks[0].numel() == len(rows):
                rows = rows[masks[0].flatten().to(rows.device)]
            some = rows[:, kept.to(rows.device)]
            means = (rows.mean(1), some.mean(1)) if centered else (0.0, 0.0)
            old = (rows.square().mean(1) - torch.as_tensor(means[0]) ** 2).clamp_min(1e-12).sqrt()
            new = (some.square().mean(1) - torch.as_tensor(means[1]) ** 2).clamp_min(1e-12).sqrt()
            shift = (means[1] - means[0]) / old if centered else torch.zeros_like(old)
            sums.setdefault(name, []).append(torch.stack([new / old, shift], dim=1).cpu())

        return note

    handles = [
        part.register_forward_pre_hook(hook(name, isinstance(part, torch.nn.LayerNorm))) for name, part in norms.items()
    ]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()
