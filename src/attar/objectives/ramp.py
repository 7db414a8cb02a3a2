"""Change weights and temperatures over training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from attar.core.nouns import Loss, Objective, Signal
from attar.core.rows import Rows
from attar.objectives.weighted import WeightedSum
from attar.settings import Settings

if TYPE_CHECKING:
    import torch


class Ramp(Settings):
    """Set a value that changes over training.

    Example:
        >>> Ramp(start=4, end=1).at(0.5), Ramp(start=4, end=1, until=0.5).at(0.9)
        (2.5, 1.0)
    """

    start: float = Field(ge=0, le=1e6, description="value at the first step")
    end: float = Field(ge=0, le=1e6, description="value from `until` on")
    until: float = Field(1.0, gt=0, le=1, description="share of training at which the end is reached")
    shape: Literal["linear", "cosine"] = Field("linear", description="straight, or slow at both ends")

    def at(self, progress: float) -> float:
        """Return the value at a share of training in [0, 1]."""
        done = min(1.0, progress / self.until)
        if self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        return self.start + (self.end - self.start) * done

    @property
    def most(self) -> float:
        """Return the larger end."""
        return max(self.start, self.end)


@dataclass(frozen=True)
class Term:
    """Hold one objective of a sum whose weight or temperature may change.

    Args:
        weight: of the objective in the sum.
        objective: at its first temperature.
        temperature: how that changes; None if it does not.
    """

    weight: float | Ramp
    objective: Objective
    temperature: Ramp | None = None

    def at(self, progress: float) -> tuple[float, Objective]:
        """Return weight and objective at a share of training; learned parts of the objective stay the same."""
        return self._with(lambda ramp: ramp.at(progress))

    def fullest(self) -> tuple[float, Objective]:
        """Return weight and objective with each ramp at its larger end."""
        return self._with(lambda ramp: ramp.most)

    def _with(self, value: Callable[[Ramp], float]) -> tuple[float, Objective]:
        weight = value(self.weight) if isinstance(self.weight, Ramp) else self.weight
        if self.temperature is None:
            return weight, self.objective
        moved: Any = copy.copy(self.objective)
        moved.settings = moved.settings.model_copy(update={"temperature": value(self.temperature)})
        return weight, moved


class Scheduled:
    """Add objectives whose weights or temperatures change over training.

    Args:
        terms: of the sum.

    Example:
        >>> from attar.objectives.cross_entropy import CrossEntropy
        >>> fading = Scheduled([Term(Ramp(start=1, end=0), CrossEntropy(CrossEntropy.Settings()))])
        >>> fading.at(0.25).terms[0][0]
        0.75
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.all_terms = tuple(terms)
        self.whole = WeightedSum([(1.0, term.objective) for term in terms])
        self.terms = self.whole.terms

    def at(self, progress: float) -> WeightedSum:
        """Return the sum at a share of training in [0, 1]; where all weights are 0, a sum that pulls nowhere."""
        return _sum([term.at(progress) for term in self.all_terms])

    def fullest(self) -> WeightedSum:
        """Return the sum with each ramp at its larger end, so that every term that ever pulls is in it.

        Example:
            >>> from attar.objectives.cross_entropy import CrossEntropy
            >>> entering = Scheduled([Term(Ramp(start=0, end=2), CrossEntropy(CrossEntropy.Settings()))])
            >>> entering.fullest().terms[0][0]
            2.0
        """
        return _sum([term.fullest() for term in self.all_terms])

    @property
    def needs(self) -> frozenset[Signal]:
        """Return the signals that any term needs."""
        return self.whole.needs

    @property
    def settles_for(self) -> frozenset[Signal]:
        """Return the signals that every term takes in place of ``logits``."""
        return self.whole.settles_for

    @property
    def by_row(self) -> bool:
        """Tell whether every term is a mean over rows."""
        return self.whole.by_row

    @property
    def divergence(self) -> bool:
        """Tell whether every term is 0 where student and teacher agree."""
        return self.whole.divergence

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss at the beginning of training."""
        return self.at(0.0)(student, teacher, targets)


def _sum(terms: list[tuple[float, Objective]]) -> WeightedSum:
    if not any(weight > 0 for weight, _ in terms):
        terms[0] = (1e-12, terms[0][1])
    return WeightedSum(terms)
