"""Add objectives with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.core.nouns import Loss, Objective, Signal
from attar.core.rows import Rows

if TYPE_CHECKING:
    import torch


class WeightedSum:
    """Add objectives; one of weight 0 is not computed at all, so it costs nothing and cannot spoil the sum.

    Args:
        terms: pairs of weight and objective; at least one weight is above 0.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> from attar.objectives.cross_entropy import CrossEntropy
        >>> rows = example_rows(torch.tensor([1]), torch.zeros(1, 2))
        >>> double = WeightedSum([(2.0, CrossEntropy(CrossEntropy.Settings()))])
        >>> round(float(double(rows, None, torch.tensor([0])).total), 4)
        1.3863
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        self.terms = tuple((weight, objective) for weight, objective in terms if weight > 0)
        if not self.terms:
            raise ValueError("a sum of objectives needs at least one weight above 0")

    @property
    def by_row(self) -> bool:
        """Tell whether every term is a mean over rows."""
        return all(objective.by_row for _, objective in self.terms)

    @property
    def divergence(self) -> bool:
        """Tell whether every term is 0 where student and teacher agree."""
        return all(objective.divergence for _, objective in self.terms)

    @property
    def settles_for(self) -> frozenset[Signal]:
        """Return the signals that every term takes in place of ``logits``."""
        return frozenset.intersection(*(objective.settles_for for _, objective in self.terms))

    @property
    def needs(self) -> frozenset[Signal]:
        """Return the signals that any term needs."""
        return frozenset().union(*(objective.needs for _, objective in self.terms))

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the weighted sum; its parts are the terms' values before their weights."""
        losses = [(weight, objective(student, teacher, targets)) for weight, objective in self.terms]
        total = sum((weight * loss.total for weight, loss in losses[1:]), start=losses[0][0] * losses[0][1].total)
        parts = {name: value for _, loss in losses for name, value in loss.parts.items()}
        return Loss(total, parts)
