"""Mix distributions in the logarithm, and add up ratios: what divergences from a mixture share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def mix(log_p: torch.Tensor, log_q: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return ``log(share · p + (1 - share) · q)``, exact also where p or q is too small for its type.

    Args:
        log_p: ``(rows, choices)``; may be -inf where the other is not.
        log_q: ``(rows, choices)``; likewise.
        share: of p, between 0 and 1; ``()`` or ``(rows, 1)``.

    Example:
        >>> import torch
        >>> half = torch.log(torch.tensor([[0.5, 0.5]]))
        >>> mix(half, torch.log(torch.tensor([[0.1, 0.9]])), torch.tensor(0.5)).exp()
        tensor([[0.3000, 0.7000]])
    """
    return torch.logaddexp(log_p + share.log(), log_q + torch.log1p(-share))


def ratios(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    """Return ``a · (log a - log b)`` for each choice: the terms of KL(a ‖ b).

    Example:
        >>> import torch
        >>> ratios(torch.tensor([[0.0, -torch.inf]]), torch.log(torch.tensor([[0.5, 0.5]])))
        tensor([[0.6931, 0.0000]])
    """
    a = log_a.exp()
    # a choice of probability 0 adds 0, not 0 x infinity
    return torch.where(a > 0, a * (log_a - log_b), 0.0)
