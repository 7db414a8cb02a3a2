"""Compare two distributions choice by choice: what all divergences of the catalogue share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.pairs import mean_where_said, softened
from attar.settings import Settings

if TYPE_CHECKING:
    import torch


class SoftSettings(Settings):
    """Set the softening of both distributions."""

    temperature: float = Field(2.0, gt=0, le=1000, description="divides both logits; > 1 shows the small ones")


class Divergence:
    """Average ``T² · Σ f(log p, log q)`` over rows: p the teacher's probabilities, q the student's, softened by T.

    The factor T² keeps the size of the gradient the same at every temperature, so a weight found at one temperature
    stays good at another. A subclass gives f and its name.

    Args:
        settings: its ``temperature``, and what f needs.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset({"top"})
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = True
    second_order: ClassVar[bool] = True  # quadratic where both nearly agree, so that T² keeps the gradient's size
    Settings: ClassVar[type[SoftSettings]] = SoftSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return f for each choice, ``(rows, choices)``; a choice that adds nothing must add 0, never NaN."""
        raise NotImplementedError

    def of_rows(self, student: Rows, teacher: Rows) -> torch.Tensor:
        """Return the divergence of each row ``(rows,)``, without the factor T²."""
        return self.pointwise(*softened(student, teacher, self.settings.temperature)).sum(dim=-1)

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order.

        Raises:
            ValueError: there are no teacher's rows.
        """
        if teacher is None:
            raise ValueError(f"{self.name} needs the teacher's rows")
        loss = mean_where_said(self.of_rows(student, teacher), student, teacher) * self.settings.temperature**2
        return Loss(loss, {self.name: loss.detach()})
