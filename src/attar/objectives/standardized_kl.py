"""Compare the shape of logits, not their size: forward Kullback-Leibler divergence of standardized logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.objectives.divergence import Divergence
from attar.objectives.mixture import ratios
from attar.objectives.pairs import both
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class StandardizedKL(Divergence):
    """Let a small student keep its own scale: ``T² · KL(softmax(z_teacher / T) ‖ softmax(z_student / T))``.

    z is a row's logits with mean 0 and standard deviation 1, the root of the mean square over all c choices. The
    authors' code divides by c - 1: its temperature T is ``T · √(c / (c - 1))`` here. A row of equal logits has z = 0.
    Choices that are ruled out (-inf) stay so and count neither in mean nor in deviation.

    Student and teacher with proportional logits already agree, so it is 0 for more than equal ones; the scale of
    the student's logits has to come from another term, such as cross-entropy.

    It takes no ``top`` record: mean and deviation need all logits.

    Args:
        settings: see `attar.objectives.divergence.SoftSettings`.

    Reference:
        Sun et al., "Logit Standardization in Knowledge Distillation", 2024, algorithm 1.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> teacher = example_rows(torch.tensor([1]), torch.tensor([[0.0, 5.0]]))
        >>> student = example_rows(torch.tensor([1]), torch.tensor([[1.0, 2.0]]))
        >>> float(StandardizedKL(StandardizedKL.Settings())(student, teacher, torch.tensor([-1])).total)
        0.0
    """

    name: ClassVar[str] = "standardized_kl"
    second_order: ClassVar[bool] = False  # standardized, no scores are near 0
    settles_for: ClassVar[frozenset[Signal]] = frozenset()

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``p · (log p - log q)``."""
        return ratios(log_p, log_q)

    def of_rows(self, student: Rows, teacher: Rows) -> torch.Tensor:
        """Return the divergence of each row ``(rows,)``, without the factor T²."""
        ours, theirs = (standardize(part) / self.settings.temperature for part in both(student, teacher))
        return self.pointwise(torch.log_softmax(theirs, dim=-1), torch.log_softmax(ours, dim=-1)).sum(dim=-1)


def standardize(logits: torch.Tensor) -> torch.Tensor:
    """Return logits with mean 0 and standard deviation 1 in each row.

    Args:
        logits: ``(rows, choices)``; what is -inf stays so.

    Example:
        >>> import torch
        >>> standardize(torch.tensor([[3.0, 7.0]]))
        tensor([[-1.,  1.]])
    """
    known = torch.isfinite(logits)
    count = known.sum(dim=-1, keepdim=True).clamp_min(1)
    mean = torch.where(known, logits, 0.0).sum(dim=-1, keepdim=True) / count
    apart = torch.where(known, logits - mean, 0.0)
    variance = apart.square().sum(dim=-1, keepdim=True) / count
    # the root of 0 has no finite gradient
    deviation = torch.where(variance > 0, variance, 1.0).sqrt()
    return torch.where(known, apart / deviation, float("-inf"))
