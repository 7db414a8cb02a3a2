"""Round weights to the nearest values of a grid (RTN), and measure what that changes in a layer's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.compressors.activations import Statistics
from attar.compressors.quantize.grid import Grid, Scheme, fit
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SEARCHED_BELOW = 8
"""Bits from which on a search for better scales is not worth its time."""
UNSEEN = 0.01
"""What an input that calibration never used counts for, as a share of the mean: it may be used one day."""


def round_to_nearest(
    weight: torch.Tensor, scheme: Scheme, found: Statistics | None = None
) -> tuple[torch.Tensor, Grid]:
    """Return a weight on its grid ``(out, in)``, each value the nearest to the old one, and the grid.

    Args:
        weight: ``(out, in)``.
        scheme: see `attar.compressors.quantize.grid.Scheme`.
        found: what goes into the layer; inputs that are large then count more when scales are chosen.
    """
    importance = None if found is None else counted(found.square)
    grid = fit(weight, scheme, importance, search=scheme.bits < SEARCHED_BELOW)
    return grid.round(weight.float()), grid


def counted(square: torch.Tensor) -> torch.Tensor:
    """Return how much each input counts ``(in,)``: its mean square, and a little where it was never used."""
    mean = square.mean()
    return torch.ones_like(square) if mean == 0 else square + UNSEEN * mean


def output_error(weight: torch.Tensor, rounded: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return the mean squared change of a layer's output, summed over outputs: ``tr(Δ H Δᵀ)``.

    Args:
        weight: ``(out, in)``.
        rounded: ``(out, in)``.
        hessian: ``(in, in)``, the mean of x xᵀ.

    Example:
        >>> import torch
        >>> output_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.diag(torch.tensor([9.0, 4.0])))
        4.0
    """
    change = (rounded - weight).float()
    return float(((change @ hessian) * change).sum())
