"""Compare distributions the other way round: reverse Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.objectives.divergence import Divergence
from attar.objectives.mixture import ratios
from attar.objectives.pairs import LEAST

if TYPE_CHECKING:
    import torch

FLOOR = -100.0
"""Least log-probability of a teacher: what it rules out shall cost the student much, not infinitely much."""


class ReverseKL(Divergence):
    """Keep the student where the teacher is: ``T² · KL(student ‖ teacher)``; it drops modes it cannot hold.

    Args:
        settings: see `attar.objectives.divergence.SoftSettings`.

    Reference:
        Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", 2024, equation 1.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
        >>> float(ReverseKL(ReverseKL.Settings(temperature=1))(rows, rows, torch.tensor([-1])).total)
        0.0
    """

    name: ClassVar[str] = "reverse_kl"

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``q · (log q - log p)``."""
        return ratios(log_q.clamp_min(LEAST), log_p.clamp_min(FLOOR))
