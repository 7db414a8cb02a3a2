"""Classify an image: one row an example, a score for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Batch, Model
from attar.core.rows import Rows, example_rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class ImageClassification:
    """Read images as normalized pixels; say one row an example.

    Example:
        >>> ImageClassification.metric
        'accuracy'
    """

    name: ClassVar[str] = "image-classification"
    metric: ClassVar[str] = "accuracy"
    default_export: ClassVar[str] = "onnx"
    chooses_by: ClassVar[str] = "accuracy"
    input_kind: ClassVar[str] = "image"
    default_compression: ClassVar[tuple[str, ...]] = ("static_int8",)

    def collate(self, model: Model, examples: Examples) -> Batch:
        """Return ``pixel_values (batch, channels, height, width)``: pixels in [0, 1], less ``mean``, over ``std``."""
        pixels = torch.from_numpy(normalize(np.asarray(examples.inputs), model.facts["mean"], model.facts["std"]))
        return Batch(examples, {"pixel_values": pixels}, torch.from_numpy(np.ascontiguousarray(examples.labels)))

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return rows with logits ``(examples, labels)``; networks that return an object give its ``logits``."""
        device = next(model.module.parameters()).device
        said = model.module(batch.inputs["pixel_values"].to(device))
        return example_rows(batch.keys.to(device), said if isinstance(said, torch.Tensor) else said.logits)

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return 1 for each example: all images are of one size."""
        return np.ones(len(examples), np.int64)


def normalize(pixels: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Return float32 pixels ``(x / 255 - mean) / std``.

    Args:
        pixels: uint8 ``(images, channels, height, width)``.
        mean: in [0, 1].
        std: above 0.
    """
    return ((pixels.astype(np.float32) / 255.0 - mean) / std).astype(np.float32)
