"""Learn values that are added to the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.kinds.wrapper import VirtualPrompt

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class PixelPrompt(VirtualPrompt):
    """Hold values ``(pixels,)`` that are added to normalized images: to a frame at their border, or everywhere.

    The images keep their size, so any model reads them, and the prompt costs one addition.

    Args:
        values: what it begins as.
        shape: of an image, ``(channels, height, width)``.
        width: of the frame in pixels; None for a value for every pixel.

    Reference:
        Bahng et al. 2022, "Exploring Visual Prompts for Adapting Large-Scale Models", section 3 (padding).
    """

    name: ClassVar[str] = "pixel"
    places: torch.Tensor

    def __init__(self, values: torch.Tensor, shape: Sequence[int], width: int | None) -> None:
        super().__init__(values)
        self.shape, self.width = tuple(shape), width
        self.register_buffer("places", _places(self.shape, width), persistent=False)

    @property
    def length(self) -> int:
        """Return the frame's width in pixels; half the image's smaller side where there is no frame."""
        return self.width if self.width is not None else (min(self.shape[1:]) + 1) // 2

    @property
    def virtual_tokens(self) -> int:
        """Return 0: no input gets longer."""
        return 0

    @staticmethod
    def begin(model: Model, settings: SoftSettings, written: TextPrompt | None) -> torch.Tensor:
        """Return the values to begin with ``(pixels,)``: 0, which leaves the model as it is, or small noise.

        Raises:
            AttarError: the frame is wider than the image.
        """
        shape = model.facts["shape"]
        if not settings.whole and 2 * settings.length >= min(shape[1:]):
            raise AttarError(
                f"A frame of {settings.length} pixels leaves nothing of an image of {shape[1]} x {shape[2]}. Set a "
                "smaller length, or whole: true."
            )
        count = len(_places(shape, None if settings.whole else settings.length))
        return 0.02 * torch.randn(count) if settings.init == "random" else torch.zeros(count)

    def forward(self, base: Any, pixels: torch.Tensor) -> Any:
        """Return what the model says of images ``(batch, channels, height, width)`` with the values added."""
        added = torch.zeros_like(pixels[0]).flatten().scatter(0, self.places, self.values.to(pixels.dtype))
        return base(pixels + added.view(self.shape))


def _places(shape: Sequence[int], width: int | None) -> torch.Tensor:
    """Return where in an image, laid out in one line, the values are added."""
    inside = torch.zeros(tuple(shape), dtype=torch.bool)
    if width is not None:
        inside[:, width:-width, width:-width] = True
    return (~inside).flatten().nonzero().flatten()
