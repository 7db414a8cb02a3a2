"""Compare hidden states: hints."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attar.core.rows import weighted_mean
from attar.objectives.features import FeatureObjective, LayerSettings
from attar.objectives.views import View, mean_where, positions
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class HiddenStates(FeatureObjective):
    """Pull the student's hidden states to the teacher's: ``mean over tokens of ‖W s - t‖² / width``, or of 1 - cos.

    W is learned, and is there only where widths differ. The mean is over the tokens of an example (padding is left
    out), then over examples by weight: a long text counts as much as a short one. Maps of a convnet are compared pixel
    by pixel, the larger averaged to the smaller's size; W is then a 1 × 1 convolution.

    Args:
        settings: see `HiddenStates.Settings`.

    Reference:
        Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, equation 3; Jiao et al., "TinyBERT", 2020, section 3.

    Example:
        >>> import torch
        >>> from attar.core.rows import Rows
        >>> def said(state):
        ...     features = {"hidden:-1": torch.tensor([[state]])}
        ...     return Rows(torch.tensor([[1, 0]]), torch.ones(1), torch.zeros(1, 2), features=features)
        >>> objective = HiddenStates(HiddenStates.Settings())
        >>> float(objective(said([0.0, 2.0]), said([0.0, 0.0]), torch.tensor([0])).total)
        2.0
    """

    name: ClassVar[str] = "hidden"

    class Settings(LayerSettings):
        """Set which layers are compared, and how."""

        compare: Literal["mse", "cosine"] = Field("mse", description="squared difference, or 1 - cosine")

    def part_for(self, ours: View, theirs: View) -> torch.nn.Module | None:
        """Return a linear projector to the teacher's width, where widths differ."""
        return None if ours.width == theirs.width else torch.nn.Linear(ours.width, theirs.width)

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean over positions and examples.

        Raises:
            ValueError: widths differ and no projector was built.
        """
        first, second, mask = positions(ours, theirs)
        if self.module is None and ours.width != theirs.width:
            raise ValueError(f"{self.name} has no projector from {ours.width} to {theirs.width}: build it first")
        first = self.part(place)(first)
        if self.settings.compare == "mse":
            apart = (first - second).square().mean(dim=-1)
        else:
            apart = 1 - torch.nn.functional.cosine_similarity(first, second, dim=-1)
        return weighted_mean(mean_where(apart, mask), weight)
