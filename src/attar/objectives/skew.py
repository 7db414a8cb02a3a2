"""Choose how far a divergence is skewed: what both skewed divergences share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from attar.objectives.divergence import SoftSettings
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

LEAST = 0.01
"""Least share that a row is given; below it a skewed divergence is as rough as the plain one."""


class SkewSettings(SoftSettings):
    """Set the softening and the skew."""

    alpha: float = Field(0.1, gt=0, lt=1, description="share of the first distribution mixed into the second")
    adaptive: bool = Field(False, description="give each row its own share: alpha where it is hard, less where not")
    gap: float = Field(0.1, gt=0, le=1, description="with adaptive: distance of a row's probabilities that gives alpha")


def share_of(settings: SkewSettings, log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    """Return each row's share ``(rows, 1)`` of a in the mixture, without gradient.

    With ``adaptive`` it is ``1 - (1 - alpha) · gap / E_a[a - b]``, kept between 0.01 and alpha, where ``E_a[a - b]``
    is how much likelier a choice drawn from a is under a than under b: to first order the gradient is then equally
    strong in easy and in hard rows.

    Args:
        settings: the skew.
        log_a: ``(rows, choices)`` the first distribution.
        log_b: ``(rows, choices)`` the second.

    Example:
        >>> import torch
        >>> near, far = torch.log(torch.tensor([[0.6, 0.4]])), torch.log(torch.tensor([[0.9, 0.1]]))
        >>> share_of(SkewSettings(adaptive=True), far, near)
        tensor([[0.1000]])
    """
    if not settings.adaptive:
        return torch.full_like(log_a[:, :1], settings.alpha)
    a, b = log_a.detach().exp(), log_b.detach().exp()
    apart = (a * (a - b)).sum(dim=-1, keepdim=True).clamp_min(1e-5)
    return (1 - (1 - settings.alpha) * settings.gap / apart).clamp(min(LEAST, settings.alpha), settings.alpha)
