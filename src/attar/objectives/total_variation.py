"""Compare probabilities by their distance: total variation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.objectives.divergence import Divergence

if TYPE_CHECKING:
    import torch


class TotalVariation(Divergence):
    """Move as little probability as needed: ``T² · ½ Σ |p - q|``, p teacher, q student.

    It lies between 0 and T². Its gradient does not fade near the teacher, as that of a KL does, so it is of first
    order in 1/T: with T² on, as everywhere, it grows with T; divide the weight by T to keep its size.

    Of a ``top`` record it compares the choices kept and the rest: what moves inside the rest is not seen.

    Args:
        settings: see `attar.objectives.divergence.SoftSettings`.

    Reference:
        Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> teacher = example_rows(torch.tensor([1]), torch.log(torch.tensor([[0.25, 0.75]])))
        >>> student = example_rows(torch.tensor([1]), torch.zeros(1, 2))
        >>> objective = TotalVariation(TotalVariation.Settings(temperature=1))
        >>> round(float(objective(student, teacher, torch.tensor([-1])).total), 4)
        0.25
    """

    name: ClassVar[str] = "total_variation"
    second_order: ClassVar[bool] = False

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``½ |p - q|``."""
        return 0.5 * (log_p.exp() - log_q.exp()).abs()
