"""Say how important each unit of a transformer is: by what it gives, by what the loss says of it, or by its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attar.compressors.activations import BATCH, collect
from attar.compressors.prune.anatomy import Group
from attar.compressors.prune.slicing import network_of
from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.log import progress
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Importance = Literal["activation", "taylor", "magnitude"]
"""What a unit's importance is.

``activation``: the mean magnitude of what it gives to the layer that reads it, over tokens; one pass. ``taylor``: the
magnitude of weight times gradient, summed over all weights that go with it: what the loss would change by, to first
order; one pass and its gradient. ``magnitude``: the norm of all weights that go with it; no pass. It is
blind to channels of small weights that carry much: a language model can lose all it knows with a few of them.
"""


def scores_of(
    kind: Importance, model: Model, groups: Sequence[Group], calibration: Calibration, examples: Examples
) -> list[torch.Tensor]:
    """Return the importance of the units of some groups, each ``(units,)`` float32, larger for what should stay.

    Args:
        kind: see `Importance`.
        model: is left as it was.
        groups: of the model's network.
        calibration: its task reads the examples; for ``taylor`` its loss is asked.
        examples: what the model reads.

    Raises:
        AttarError: nothing could be measured.

    Reference:
        Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation", section 2.2
        (activation); Ma et al. 2023, "LLM-Pruner", equation 3, and Molchanov et al. 2019, "Importance Estimation for
        Neural Network Pruning" (taylor).
    """
    if kind == "activation":
        return _activation(model, groups, calibration, examples)
    if kind == "taylor":
        return _taylor(model, groups, calibration, examples)
    weights = _parameters(network_of(model))
    return [per_unit(group, weights, lambda weight: weight.detach().float().square()).sqrt() for group in groups]


def _activation(
    model: Model, groups: Sequence[Group], calibration: Calibration, examples: Examples
) -> list[torch.Tensor]:
    prefix = prefix_of(model)
    names = {f"{prefix}{read}" for group in groups for read in group.reads}
    found = collect(model, calibration.task, examples, names=names)
    scores = []
    for group in groups:
        # what no calibration example runs through, such as a head that its task multiplies by, has no say
        seen = [found[name].mean_abs for read in group.reads if (name := f"{prefix}{read}") in found]
        if not seen:
            raise AttarError(
                f"Importance by activation cannot be measured: no example runs through {group.reads[0]}. "
                "Set importance: magnitude."
            )
        scores.append(torch.stack([one.unflatten(0, (group.units, -1)).sum(1) for one in seen]).sum(0))
    return scores


def _taylor(model: Model, groups: Sequence[Group], calibration: Calibration, examples: Examples) -> list[torch.Tensor]:
    loss_of = calibration.loss
    if loss_of is None:
        raise AttarError("Importance by taylor needs the loss that trains the model. Set importance: activation.")
    weights = _parameters(network_of(model))
    wanted = {id(weights[cut.name]) for group in groups for cut in group.cuts}
    frozen = [part for part in model.module.parameters() if part.requires_grad != (id(part) in wanted)]
    scores = [torch.zeros(group.units) for group in groups]
    was_training = model.module.training
    model.module.eval()
    _flip(frozen)
    try:
        with progress("measuring gradients", len(examples)) as bar, torch.enable_grad():
            for some in _parts(model, calibration, examples):
                loss = loss_of(model, some)
                if not (loss.requires_grad and bool(torch.isfinite(loss))):
                    continue
                model.module.zero_grad(set_to_none=True)
                loss.backward()
                for group, total in zip(groups, scores, strict=True):
                    total += len(some) / len(examples) * per_unit(group, weights, _change)
                bar.advance(len(some), "")
    finally:
        model.module.zero_grad(set_to_none=True)
        _flip(frozen)
        model.module.train(was_training)
    if not any(bool(one.any()) for one in scores):
        raise AttarError(
            "Importance by taylor cannot be measured: no calibration example has a loss with a gradient. Give the "
            "training split labels or target texts (data.gold), or set importance: activation."
        )
    return scores


def _parts(model: Model, calibration: Calibration, examples: Examples) -> list[Examples]:
    import numpy as np

    order = np.argsort(calibration.task.length(model, examples), kind="stable")
    return [examples.take(order[first : first + BATCH]) for first in range(0, len(order), BATCH)]


def _flip(parameters: Sequence[torch.nn.Parameter]) -> None:
    for part in parameters:
        part.requires_grad_(not part.requires_grad)


def _change(weight: torch.Tensor) -> torch.Tensor:
    """Return the magnitude of weight times gradient: a weight without a gradient has no say."""
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return (weight.detach() * gradient).float().abs()


def _parameters(network: Any) -> Mapping[str, torch.Tensor]:
    """Return all that a network holds by name, tied weights under each of their names."""
    buffers = dict(network.named_buffers())
    return {**buffers, **dict(network.named_parameters(remove_duplicate=False))}


def per_unit(
    group: Group, weights: Mapping[str, torch.Tensor], value: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the sum over all weights that go with each unit ``(units,)``; query heads share what is their KV head's.

    Args:
        group: the units.
        weights: name -> parameter; one that has two names counts once.
        value: returns a number for each weight of a parameter, in its shape.
    """
    total, seen = torch.zeros(group.units), set[tuple[int, int]]()
    for cut in group.cuts:
        if (place := (id(weights[cut.name]), cut.dim)) in seen:
            continue
        seen.add(place)
        numbers = value(weights[cut.name])
        others = [dim for dim in range(numbers.ndim) if dim != cut.dim]
        sums = (numbers.sum(others) if others else numbers).unflatten(0, (cut.units, -1)).sum(1)
        share = group.units // cut.units
        total += sums.repeat_interleave(share).cpu() / share
    return total


def prefix_of(model: Model) -> str:
    """Return what stands before the names of a model's network, seen from its module."""
    return "" if network_of(model) is model.module else "lm."
