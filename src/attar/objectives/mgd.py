"""Restore the teacher's map from a masked one of the student's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.rows import weighted_mean
from attar.errors import AttarError
from attar.objectives.features import FeatureObjective, Pair
from attar.objectives.views import View
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class MaskedGeneration(FeatureObjective):
    """Have a small network restore the teacher's map from the student's with some pixels hidden.

    ``mean over channels and pixels of (T - G(M · align(S)))²``: ``align`` is a 1 × 1 convolution to the teacher's
    channels where they differ, M hides each pixel with the given chance, in all channels alike (drawn by torch's
    generator), G is convolution 3 × 3, ReLU, convolution 3 × 3. A student's map of another size is first brought to the
    teacher's. The paper sums over channels and pixels; the mean here makes the weight independent of the map's size.

    Args:
        settings: see `MaskedGeneration.Settings`.

    Reference:
        Yang et al., "Masked Generative Distillation", 2022, section 3.
    """

    name: ClassVar[str] = "mgd"
    whole_batch: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    class Settings(Settings):
        """Set which maps are compared, and how much is hidden."""

        pairs: tuple[Pair, ...] = Field(
            (("map", "map"),), min_length=1, description="the student's and the teacher's map of each pair"
        )
        masked: float = Field(0.5, ge=0, lt=1, description="chance of a pixel to be hidden")

    def part_for(self, ours: View, theirs: View) -> torch.nn.Module | None:
        """Return the alignment and the generator.

        Raises:
            AttarError: a feature is no map.
        """
        for one in (ours, theirs):
            if not one.is_map:
                raise AttarError(
                    f"{self.name} compares maps (examples, channels, height, width), and '{one.name}' has the shape "
                    f"{tuple(one.values.shape)}. Pair modules of convnets."
                )
        channels = theirs.width
        same = ours.width == channels
        align = torch.nn.Identity() if same else torch.nn.Conv2d(ours.width, channels, 1)
        first, second = (torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return torch.nn.ModuleList([align, torch.nn.Sequential(first, torch.nn.ReLU(), second)])

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean over channels, pixels and examples.

        Raises:
            ValueError: the generator was not built.
        """
        if self.module is None:
            raise ValueError(f"{self.name} has no generator: build it first")
        align, generate = self.part(place)
        aligned, size = align(ours.values), theirs.values.shape[2:]
        if aligned.shape[2:] != size:
            aligned = torch.nn.functional.interpolate(aligned, size=size, mode="bilinear", align_corners=False)
        # drawn on the CPU: the same pixels on every device
        shown = torch.rand(len(aligned), 1, *size).to(aligned) >= self.settings.masked
        apart = (generate(aligned * shown) - theirs.values).square().mean(dim=(1, 2, 3))
        return weighted_mean(apart, weight)
