"""Tell the teacher's embedding of an example from those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.rows import weighted_mean
from attar.objectives.features import FeatureObjective, PooledSettings
from attar.objectives.views import View
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Contrastive(FeatureObjective):
    """Make the student's embedding of an example nearer to the teacher's of it than to the teacher's of others.

    Both are projected by learned linear layers and brought to length 1; the loss is the mean of two cross-entropies
    of ``cos / temperature``: to find the teacher's embedding by the student's, and the reverse. The other examples of
    the batch are the negatives (there is no memory of earlier batches); those of weight 0 are no part of it.

    Args:
        settings: see `Contrastive.Settings`.

    Reference:
        After Tian, Krishnan and Isola, "Contrastive Representation Distillation", 2020, with the loss of van den Oord,
        Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, equation 4.
    """

    name: ClassVar[str] = "contrastive"
    whole_batch: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    class Settings(PooledSettings):
        """Set the space in which embeddings are compared."""

        width: int = Field(128, ge=1, le=65536, description="of the projections")
        temperature: float = Field(0.07, gt=0, le=1000, description="divides cosines")

    def part_for(self, ours: View, theirs: View) -> torch.nn.Module | None:
        """Return the projections of student and teacher."""
        width = self.settings.width
        return torch.nn.ModuleList([torch.nn.Linear(ours.width, width), torch.nn.Linear(theirs.width, width)])

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean over examples.

        Raises:
            ValueError: no projections were built.
        """
        if self.module is None:
            raise ValueError(f"{self.name} has no projections: build them first")
        kept = weight > 0
        first, second = (
            torch.nn.functional.normalize(project(one.embedding()[kept]), dim=-1)
            for project, one in zip(self.part(place), (ours, theirs), strict=True)
        )
        scores = first @ second.T / self.settings.temperature
        right = torch.arange(len(scores), device=scores.device)
        losses = [torch.nn.functional.cross_entropy(one, right, reduction="none") for one in (scores, scores.T)]
        return weighted_mean((losses[0] + losses[1]) / 2, weight[kept].to(scores.dtype))
