"""Share out a model's sparsity over its layers: equally, by one threshold, or by outliers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Allocation = Literal["uniform", "global", "owl"]
Scores = Callable[[str], "torch.Tensor"]
"""Return the scores of a layer's weights ``(out, in)``, all >= 0; they are computed again each time, not kept."""

OUTLIER, SPREAD = 5.0, 0.08
"""What is an outlier, in means of the scores; and how far a block's sparsity may lie from the mean (M and λ of OWL)."""
MOST = 0.95
"""Of a layer's weights that are removed at most: an empty layer stops everything behind it."""
HALVINGS = 40


def allocate(how: Allocation, ratio: float, sizes: Mapping[str, int], scores: Scores) -> dict[str, float]:
    """Return the share of each layer's weights to remove; weighted by sizes their mean is ``ratio``.

    Args:
        how: ``uniform``; ``global``: the lowest scores of all layers together; ``owl``: blocks with more outliers keep
            more.
        ratio: of all weights together, in (0, 1).
        sizes: name of the layer -> number of its weights.
        scores: of the weights of one layer.

    Reference:
        Yin et al. 2023, "Outlier Weighed Layerwise Sparsity", section 3.2.

    Example:
        >>> import torch
        >>> weights = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
        >>> shares = allocate("global", 0.25, {"a": 2, "b": 2}, weights.__getitem__)
        >>> {name: round(share, 2) for name, share in shares.items()}
        {'a': 0.5, 'b': 0.0}
    """
    if how == "uniform":
        return dict.fromkeys(sizes, ratio)
    wanted = _under_threshold(ratio, sizes, scores) if how == "global" else _by_outliers(sizes, scores)
    return _settled(wanted, sizes, ratio)


def _under_threshold(ratio: float, sizes: Mapping[str, int], scores: Scores) -> dict[str, float]:
    """Return the share of each layer's scores under the one threshold that ``ratio`` of all are under."""
    low, high, total = 0.0, max(float(scores(name).max()) for name in sizes), sum(sizes.values())
    shares = dict.fromkeys(sizes, 0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = {name: int((scores(name) < middle).sum()) for name in sizes}
        shares = {name: count / sizes[name] for name, count in counts.items()}
        if sum(counts.values()) == round(ratio * total):
            break
        low, high = (middle, high) if sum(counts.values()) < ratio * total else (low, middle)
    return shares


def _by_outliers(sizes: Mapping[str, int], scores: Scores) -> dict[str, float]:
    """Return shares that differ by at most 2 · SPREAD: less of blocks with more outliers; their mean is any."""
    outliers: dict[str, float] = {}
    weights: dict[str, int] = {}
    for name, size in sizes.items():
        found = scores(name)
        block = block_of(name)
        outliers[block] = outliers.get(block, 0.0) + float((found > OUTLIER * found.mean()).sum())
        weights[block] = weights.get(block, 0) + size
    share = {block: outliers[block] / weights[block] for block in outliers}
    least, most = min(share.values()), max(share.values())
    wide = (most - least) or 1.0
    return {name: -2 * SPREAD * (share[block_of(name)] - least) / wide for name in sizes}


def block_of(name: str) -> str:
    """Return the block that a layer lies in: its path up to the first number, which blocks of transformers have.

    Example:
        >>> block_of("model.layers.11.mlp.up_proj"), block_of("conv1")
        ('model.layers.11', 'conv1')
    """
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found.group() if found else name


def _settled(wanted: Mapping[str, float], sizes: Mapping[str, int], ratio: float) -> dict[str, float]:
    """Return the shares, all moved by as much as makes their mean ``ratio``, within what a layer may lose."""
    limit, total = max(MOST, (1 + ratio) / 2), sum(sizes.values())
    low, high = -2.0, 2.0
    moved: dict[str, float] = {}
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        moved = {name: min(max(share + middle, 0.0), limit) for name, share in wanted.items()}
        mean = sum(moved[name] * size for name, size in sizes.items()) / total
        low, high = (middle, high) if mean < ratio else (low, middle)
    return moved
