"""Repair what reads a cut dimension: what the removed channels gave is made of the kept ones, as well as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.compressors.activations import collect
from attar.compressors.prune.importance import prefix_of
from attar.compressors.prune.slicing import Choice, network_of, spread
from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

RIDGES = (0.03, 0.1, 0.3, 1.0)
"""Strengths of the pull toward weights as they are, as shares of each kept channel's mean square."""
LIMIT = 512 << 20
"""Bytes of products of channels that are held at once; more takes one more pass over the examples."""


def folded(
    weight: torch.Tensor, halves: tuple[torch.Tensor, torch.Tensor], kept: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return a layer's weights with what the removed channels gave put on the kept ones, by ridge regression.

    Of all weights on the kept channels these give the least mean square difference to what the layer gave, plus a
    ridge on how far they move. Its strength is the one of `RIDGES` that, fitted on one half of the examples, does best
    on the other; where none does better than the weights as they are, these are returned. With few examples a fit
    without that test makes a model worse.

    Args:
        weight: ``(out, in)``.
        halves: ``(in, in)`` each, the mean of x xᵀ over the tokens of one half of the examples.
        kept: places of the channels that stay.

    Returns:
        ``(out, in)``, in which what stands at removed channels is as it was; and the share of the difference on
        unseen examples that is left, 1 where nothing was gained.

    Example:
        >>> import torch
        >>> twins = torch.ones(2, 2)  # both channels always say the same
        >>> folded(torch.tensor([[1.0, 2.0]]), (twins, twins), torch.tensor([0]))[0].round().tolist()
        [[3.0, 2.0]]
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    gone[kept] = False
    lost = weight[:, gone].float()
    before = _difference(lost, None, halves[1], kept, gone)
    tried = [
        (_difference(lost, _moved(halves[0], kept, gone, ridge), halves[1], kept, gone), ridge) for ridge in RIDGES
    ]
    after, ridge = min(tried)
    new = weight.clone()
    if not after < before:
        return new, 1.0
    new[:, kept] += (lost @ _moved((halves[0] + halves[1]) / 2, kept, gone, ridge).T).to(weight.dtype)
    return new, after / before


def _moved(product: torch.Tensor, kept: torch.Tensor, gone: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return of what kept channels each removed one is made ``(kept, removed)``."""
    inner = product[kept][:, kept].double()
    sizes = inner.diagonal()
    floor = (1e-6 * sizes.mean()).clamp_min(1e-12)  # a channel that is never used has no size
    moved: torch.Tensor = torch.linalg.solve(inner + torch.diag(ridge * sizes + floor), product[kept][:, gone].double())
    return moved.to(product.dtype)


def _difference(
    lost: torch.Tensor, moved: torch.Tensor | None, product: torch.Tensor, kept: torch.Tensor, gone: torch.Tensor
) -> float:
    """Return the mean square of what is lost, when it is made of the kept channels (None: not at all)."""
    error = torch.zeros(len(lost), len(product), dtype=product.dtype, device=product.device)
    error[:, gone] = lost
    if moved is not None:
        error[:, kept] = -lost @ moved.T
    return float(((error @ product) * error).double().sum())


def repaired(
    model: Model, choices: Sequence[Choice], calibration: Calibration, examples: Examples
) -> tuple[dict[str, torch.Tensor], float]:
    """Return the weights of the layers that read what is cut, repaired.

    Weights that are tied to others, such as a head's to the embeddings, are left as they are.

    Args:
        model: is left as it was.
        choices: which units stay.
        calibration: its task reads the examples.
        examples: what the model reads, two at least; fewer repair nothing.

    Returns:
        Name of the parameter -> weights; and the mean over the layers of the share of the difference that is left.
    """
    network, prefix = network_of(model), prefix_of(model)
    tied = _tied(network)
    readers = {read: choice for choice in choices for read in choice.group.reads if f"{read}.weight" not in tied}
    halves = [examples.take(np.arange(first, len(examples), 2)) for first in (0, 1)]
    found, left = dict[str, torch.Tensor](), list[float]()
    for names in _bundles(network, list(readers)) if len(examples) > 1 else ():
        own = [f"{prefix}{name}" for name in names]
        seen = [collect(model, calibration.task, half, {"hessian"}, own) for half in halves]
        for name in names:
            products = [one[f"{prefix}{name}"].hessian for one in seen if f"{prefix}{name}" in one]
            if len(products) < 2 or any(one is None for one in products):
                continue
            weight, choice = network.get_submodule(name).weight.detach(), readers[name]
            kept = spread(choice.kept, weight.shape[1] // choice.group.units).to(weight.device)
            first, second = (one.to(weight.device) for one in products if one is not None)
            found[f"{name}.weight"], share = folded(weight, (first, second), kept)
            left.append(share)
    return found, float(np.mean(left)) if left else 1.0


def _tied(network: Any) -> set[str]:
    """Return the names of parameters that have another name besides."""
    seen: dict[int, str] = {}
    tied = set[str]()
    for name, part in network.named_parameters(remove_duplicate=False):
        if id(part) in seen:
            tied |= {name, seen[id(part)]}
        seen.setdefault(id(part), name)
    return tied


def _bundles(network: Any, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the names in bundles whose products fit into `LIMIT` bytes."""
    held, size = list[str](), 0
    for name in names:
        own = 2 * 4 * network.get_submodule(name).in_features ** 2
        if held and size + own > LIMIT:
            yield held
            held, size = [], 0
        held.append(name)
        size += own
    if held:
        yield held
