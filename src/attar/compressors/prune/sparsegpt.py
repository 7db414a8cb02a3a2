"""Remove weights one column after the other, and let those that stay make up for them (SparseGPT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.compressors.prune.masks import every, smallest
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BLOCK = 128
"""Columns whose weights compete with each other, and whose errors are passed on together."""
DAMPING = 0.01
"""Share of the Hessian's mean diagonal that is added to it."""
TRIES = 6
"""Of a damping ten times larger each."""


def sparsegpt(weight: torch.Tensor, hessian: torch.Tensor, ratio: float, among: int = 0) -> torch.Tensor:
    """Return a weight with zeros whose outputs are near those of the dense one.

    Args:
        weight: ``(out, in)``.
        hessian: ``(in, in)``, the mean of x xᵀ.
        ratio: share of zeros.
        among: for a pattern, 4 (2:4) or 8 (4:8): half of each so many neighbors are removed, whatever the ratio.

    Returns:
        ``(out, in)`` float32. A column whose input was always 0 is 0.

    Reference:
        Frantar & Alistarh 2023, "SparseGPT", algorithm 1.
    """
    new = weight.detach().float().clone()
    new[:, hessian.diagonal() == 0] = 0  # before any error is passed on: what is never read costs nothing
    upper = _inverse_factor(hessian.float())
    for first in range(0, new.shape[1], BLOCK):
        last = min(first + BLOCK, new.shape[1])
        errors = _block(new[:, first:last], upper[first:last, first:last], ratio, among)
        new[:, last:] -= errors @ upper[first:last, last:]
    return new


def _block(part: torch.Tensor, upper: torch.Tensor, ratio: float, among: int) -> torch.Tensor:
    """Set weights of a block of columns to zero, in place; return each column's error in units of its pivot."""
    errors = torch.zeros_like(part)
    pivots = upper.diagonal()
    scores = (part / pivots).square()
    drop = torch.zeros_like(part, dtype=torch.bool) if among else smallest(scores.flatten(), ratio).view_as(part)
    for place in range(part.shape[1]):
        if among and place % among == 0:  # chosen late: the weights have changed since the block began
            group = slice(place, place + among)
            drop[:, group] = every((part[:, group] / pivots[group]).square(), among)
        column = part[:, place].clone()
        errors[:, place] = column * drop[:, place] / pivots[place]
        part[:, place:] -= torch.outer(errors[:, place], upper[place, place:])
        part[:, place] = column * ~drop[:, place]
    return errors


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the damped Hessian's inverse."""
    matrix = hessian.clone()
    diagonal = matrix.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal[diagonal == 0] = mean
    for power in range(TRIES):  # few examples of many columns: rounding can leave it indefinite
        diagonal += DAMPING * mean * 10**power
        upper: torch.Tensor
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not int(failed):
            return upper
    raise AttarError(
        "A layer's Hessian cannot be inverted: what the layer reads is infinite or no number on the calibration "
        "examples. Take method: magnitude, or check the model's answers on them."
    )
