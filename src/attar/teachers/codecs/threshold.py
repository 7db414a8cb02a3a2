"""Draw K choices of a distribution so that likely ones are sure and every share has the right expectation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

GROUP = 64
"""Choices summed together, so that a draw looks through groups and then through one group."""


def threshold_sample(
    p: torch.Tensor, order: torch.Tensor, draws: torch.Tensor, sizes: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw a sample of each row's choices with shares of expectation p and sum 1.

    There is one threshold τ at which ``Σ min(1, p / τ)`` is the size of the sample. Choices above it are kept with
    share p; every other is drawn with probability p / τ and gets share τ: ``E[share] = p``. Of all samples of one size
    whose shares are unbiased, this has the least summed variance. The likeliest choice is kept in any case.

    Args:
        p: ``(rows, choices)`` float32 probabilities; overwritten.
        order: ``(rows, count)`` the likeliest choices, in order.
        draws: ``(rows,)`` float64 in (0, 1), one for each row: the draw is systematic.
        sizes: ``sizes[j]`` is the size of the sample if j choices are kept for sure, at most ``count`` and falling as
            j rises; the last is j + 1, and more are never sure. None for ``count`` whatever j.

    Returns:
        ``ids (rows, count)`` int64, the likeliest first, then those kept for sure, then those drawn;
        ``shares (rows, count)`` float64, 0 beyond the sample's size; and ``sure (rows,)``: how many are sure.

    Reference:
        Cohen, Duffield, Kaplan, Lund and Thorup, "Efficient stream sampling for variance-optimal estimation of subset
        sums", SIAM Journal on Computing 40(5), 2011, section 2.

    Example:
        >>> import torch
        >>> p, order, draws = torch.tensor([[0.1, 0.8, 0.1]]), torch.tensor([[1, 0]]), torch.tensor([0.25]).double()
        >>> ids, shares, sure = threshold_sample(p, order, draws)
        >>> ids.tolist(), [round(share, 3) for share in shares[0].tolist()], sure.tolist()
        ([[1, 0]], [0.8, 0.2], [1])
    """
    count = order.shape[-1]
    place = torch.arange(count, device=p.device)
    size = torch.tensor([*(sizes or [count]), *[count] * count][:count], device=p.device)
    best = p.gather(-1, order)
    value = best.double()
    tail = p.scatter_(-1, order, 0.0)
    left = value.flip(-1).cumsum(-1).flip(-1) + _group_sums(tail).sum(dim=-1, keepdim=True)  # from each place on
    fits = value * (size - place) <= left  # the threshold, if all before this place are sure
    fits[:, 0] &= count == 1
    sure = fits.to(torch.uint8).argmax(dim=-1, keepdim=True)
    tail.scatter_(-1, order, torch.where(place < sure, 0.0, best))
    open_places = size[sure] - sure
    steps = (place - sure + draws[:, None]) / open_places
    ids = torch.where(place < sure, order, _systematic(tail, steps.clamp(0.0, 1.0)))
    shares = torch.where(place < sure, value, left.gather(-1, sure) / open_places)
    return ids, torch.where(place < size[sure], shares, 0.0), sure[:, 0]


def _systematic(mass: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return the choices at which the running sum of ``mass (rows, choices)`` passes these parts of its total."""
    choices = mass.shape[-1]
    padded = _padded(mass)
    ends = _group_sums(mass).cumsum(dim=-1)
    sought = steps * ends[:, -1:]
    group = torch.searchsorted(ends, sought, right=True).clamp_max(ends.shape[-1] - 1)
    begin = torch.where(group > 0, ends.gather(-1, (group - 1).clamp_min(0)), 0.0)
    inside = padded.gather(1, group[..., None].expand(-1, -1, GROUP)).cumsum(dim=-1, dtype=torch.float64)
    within = (inside <= (sought - begin)[..., None]).sum(dim=-1).clamp_max(GROUP - 1)
    return (group * GROUP + within).clamp_max(choices - 1)


def _padded(mass: torch.Tensor) -> torch.Tensor:
    short = -mass.shape[-1] % GROUP
    return (torch.nn.functional.pad(mass, (0, short)) if short else mass).view(len(mass), -1, GROUP)


def _group_sums(mass: torch.Tensor) -> torch.Tensor:
    # 64 numbers in float32, groups in float64: as good as all in float64, without a copy of them
    return _padded(mass).sum(dim=-1).double()


def uniforms(seed: int, key: torch.Tensor, temperature: float, count: int) -> torch.Tensor:
    """Return ``count`` numbers in (0, 1) for each row: a function of seed, key and temperature, and of nothing else.

    Args:
        seed: of the record.
        key: ``(rows, 2)`` int64: example and position.
        temperature: another one, other numbers.
        count: numbers a row.

    Returns:
        ``(rows, count)`` float64.

    Reference:
        The mixing is that of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014, figure 16.
    """
    parts = key.cpu().numpy().astype(np.uint64)
    start = np.uint64(seed) ^ np.float64(temperature).view(np.uint64)
    row = _mixed(_mixed(parts[:, 0] ^ _mixed(np.array([start]))) + parts[:, 1])
    bits = _mixed(row[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _mixed(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
