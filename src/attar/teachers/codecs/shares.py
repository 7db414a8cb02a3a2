"""Keep shares of 1 as short codes, rounded up or down by a draw so that the expectation stays exact."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

OCTAVES = 23
"""Halvings of a share that codes tell apart; what is smaller becomes 2^-23 or 0 by a draw."""


@cache
def _levels(bits: int) -> torch.Tensor:
    levels = torch.exp2(-torch.arange(2**bits, dtype=torch.float64) / (2**bits // OCTAVES))
    levels[-1] = 0.0
    return levels


@cache
def _table(bits: int) -> np.ndarray:
    return _levels(bits).numpy().astype(np.float32)


def to_codes(shares: torch.Tensor, draws: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes of shares in [0, 1], each rounded to a neighboring level so that its expectation is kept.

    Args:
        shares: float64 of any shape.
        draws: of the same shape, uniform in (0, 1).
        bits: of a code: with 8, levels are 6.5 % apart; with 16, 0.025 %.

    Returns:
        int64 codes below ``2 ** bits``.

    Example:
        >>> import torch
        >>> codes = to_codes(torch.tensor([1.0, 0.5, 0.0]).double(), torch.full((3,), 0.5).double(), 8)
        >>> from_codes(codes, 8).tolist()
        [1.0, 0.5, 0.0]
    """
    levels, last = _levels(bits).to(shares.device), 2**bits - 1
    steps = -(2**bits // OCTAVES) * torch.log2(shares.clamp(1e-30, 1.0))
    upper = (steps + 1e-9).floor().clamp(0, last - 1).long()
    high, low = levels[upper], levels[upper + 1]
    return torch.where(draws < (shares - low) / (high - low), upper, upper + 1)


def from_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the shares that codes stand for, float32."""
    return torch.from_numpy(np.take(_table(bits), codes.numpy()))
