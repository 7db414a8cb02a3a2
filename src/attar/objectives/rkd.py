"""Compare how examples lie to each other: distances and angles."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from attar.core.rows import weighted_mean
from attar.objectives.features import FeatureObjective, PooledSettings
from attar.objectives.views import View
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class RelationalKD(FeatureObjective):
    """Keep the distances between the batch's examples, over their mean, and the angles at each example.

    Both are compared by the Huber loss: over pairs of different examples, and over triplets; a pair or triplet counts
    by the product of its examples' weights. It takes memory for ``batch³`` numbers.

    Args:
        settings: see `RelationalKD.Settings`.

    Reference:
        Park et al., "Relational Knowledge Distillation", 2019, section 3.2.
    """

    name: ClassVar[str] = "rkd"
    whole_batch: ClassVar[bool] = True

    class Settings(PooledSettings):
        """Set how much distances and angles count."""

        distance: float = Field(1.0, ge=0, le=1e6, description="weight of distances")
        angle: float = Field(2.0, ge=0, le=1e6, description="weight of angles")

        @model_validator(mode="after")
        def _something(self) -> RelationalKD.Settings:
            if self.distance == 0 and self.angle == 0:
                raise ValueError("distance or angle must be > 0, got 0 for both")
            return self

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of both losses."""
        first, second = Geometry(ours.embedding(), weight), Geometry(theirs.embedding(), weight)
        loss = first.weight.new_zeros(())
        if self.settings.distance:
            apart = huber(first.distances(), second.distances())
            loss = loss + self.settings.distance * weighted_mean(apart.flatten(), first.pairs.flatten())
        if self.settings.angle:
            apart = huber(first.angles(), second.angles())
            loss = loss + self.settings.angle * weighted_mean(apart.flatten(), first.triplets().flatten())
        return loss.to(ours.values.dtype)


class Geometry:
    """Measure how the points of a batch lie to each other, in float64: differences of near points keep their digits.

    Args:
        points: ``(examples, width)``.
        weight: ``(examples,)``.
    """

    def __init__(self, points: torch.Tensor, weight: torch.Tensor) -> None:
        self.kind = points.dtype
        self.weight = weight.double()
        self.different = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
        self.pairs = self.weight[:, None] * self.weight * self.different
        self.gram = points.double() @ points.double().T
        norms = self.gram.diagonal()
        squared = norms[:, None] + norms - 2 * self.gram
        self.apart = squared > 1e-12 * (norms[:, None] + norms)
        # the root has no gradient at 0
        self.lengths = torch.where(self.apart, torch.where(self.apart, squared, 1.0).sqrt(), 0.0)

    def distances(self) -> torch.Tensor:
        """Return the distances ``(examples, examples)`` over their weighted mean."""
        mean = weighted_mean(self.lengths.flatten(), self.pairs.flatten())
        return self.lengths / torch.where(mean > 0, mean, 1.0)

    def angles(self) -> torch.Tensor:
        """Return the cosines ``(examples, examples, examples)`` of angles at the middle example; 0 for equal points."""
        gram, norms = self.gram, self.gram.diagonal()
        inverse = torch.where(self.apart, 1 / torch.where(self.apart, self.lengths, 1.0), 0.0)
        product = gram[:, None, :] - gram[:, :, None] - gram[None] + norms[None, :, None]
        # from here on nothing cancels, and float32 halves the memory
        return (product * (inverse[:, :, None] * inverse[None])).to(self.kind)

    def triplets(self) -> torch.Tensor:
        """Return the weights ``(examples, examples, examples)`` of triplets; 0 where two of the three are one."""
        three = self.different[:, :, None] & self.different[None] & self.different[:, None, :]
        weight = self.weight.to(self.kind)
        return weight[:, None, None] * weight[None, :, None] * weight[None, None, :] * three


def huber(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return half the squared difference where it is at most 1, and the difference less a half beyond."""
    return torch.nn.functional.huber_loss(ours, theirs, reduction="none")
