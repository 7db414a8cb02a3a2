"""Compare which examples are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.objectives.features import FeatureObjective, PooledSettings
from attar.objectives.views import View
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Similarity(FeatureObjective):
    """Keep which examples of the batch are alike: ``‖G_teacher - G_student‖² / batch²``.

    G is the products of the examples' features with each other, each row brought to norm 1. A map is laid out flat;
    of tokens the mean is taken. An example of weight 0 is no part of the batch; others count in a product of weights.

    Args:
        settings: see `Similarity.Settings`.

    Reference:
        Tung and Mori, "Similarity-Preserving Knowledge Distillation", 2019, section 3.
    """

    name: ClassVar[str] = "similarity"
    whole_batch: ClassVar[bool] = True

    class Settings(PooledSettings):
        """Set which features are compared."""

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean over pairs of examples."""
        kept = weight > 0
        own = weight[kept].to(ours.values.dtype)
        first, second = (likeness(_flat(one)[kept]) for one in (ours, theirs))
        total = own.sum().square()
        apart = (first - second).square() * own[:, None] * own
        return apart.sum() / torch.where(total > 0, total, 1.0)


def _flat(one: View) -> torch.Tensor:
    return one.values.flatten(1) if one.is_map else one.embedding()


def likeness(points: torch.Tensor) -> torch.Tensor:
    """Return the products of points ``(examples, width)`` with each other, each row brought to norm 1."""
    return torch.nn.functional.normalize(points @ points.T, dim=-1)
