"""Make a transformer shallower: leave out the layers whose absence hurts least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.prune.slicing import network_of
from attar.core.compressing import Calibration, finite, unquantized
from attar.core.damage import Measure, choose_by_damage
from attar.core.layers import keep_layers
from attar.core.nouns import Model, Plan
from attar.errors import AttarError
from attar.settings import Settings

COUNTS = ("num_hidden_layers", "n_layers")
"""Fields that say how many layers a single stack has."""


class Depth:
    """Remove whole layers, chosen by measured damage; the rest loads as a shallower model of the same kind.

    Args:
        settings: see `Depth.Settings`.

    Reference:
        Men et al. 2024, "ShortGPT"; Kim et al. 2024, "Shortened LLaMA" (loss and divergence as measures).
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "text-generation", "image-classification"})
    cuts: ClassVar[bool] = True

    class Settings(Settings):
        """Set how many layers are removed, and how they are chosen."""

        ratio: float | None = Field(None, gt=0, lt=1, description="share of the layers to remove")
        layers: int | None = Field(None, ge=1, description="layers to keep, instead of ratio")
        measure: Measure = Field(
            "kl",
            description="of a layer's damage: influence (how far it turns its input; one pass), kl (to the whole "
            "model) or loss (its rise), one pass a layer",
        )
        greedy: bool = Field(False, description="leave out one layer at a time and measure the others again")
        texts: int = Field(16, ge=1, le=4096, description="training examples that damage is measured on")

        @model_validator(mode="after")
        def _one_of_both(self) -> Depth.Settings:
            if self.ratio is not None and self.layers is not None:
                raise ValueError("give ratio (a share to remove) or layers (how many to keep), not both")
            return self

    def __init__(self, settings: Depth.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration with fewer layers.

        Args:
            config: of the model, as ``config.json`` holds it.
            to: the format of the bundle; every format holds what is left.

        Raises:
            AttarError: nothing is asked for, all or no layers would be left, or there is no single stack of layers.

        Example:
            >>> Depth(Depth.Settings(ratio=0.25)).legal({"num_hidden_layers": 6}, "onnx")
            {'num_hidden_layers': 5}
        """
        field = next((name for name in COUNTS if isinstance(config.get(name), int)), None)
        if field is None or config.get("is_encoder_decoder"):
            kind = config.get("model_type", "unknown")
            raise AttarError(
                f"Layers of a model of type '{kind}' cannot be removed: it has no single stack of them. Known are "
                "encoders, decoders and vision transformers of one stack."
            )
        return {**config, field: self._left(int(config[field]))}

    def _left(self, count: int) -> int:
        """Return how many layers stay."""
        own = self.settings
        if own.ratio is None and own.layers is None:
            raise AttarError("depth removes nothing: give ratio (a share of the layers to remove) or layers (to keep).")
        left = own.layers if own.layers is not None else math.floor(count * (1 - (own.ratio or 0)) + 0.5)
        if not 0 < left < count:
            asked = f"layers: {own.layers}" if own.layers is not None else f"ratio: {own.ratio:g}"
            raise AttarError(
                f"The model has {count} layers, and depth with {asked} would keep {left}. Keep 1 to {count - 1}."
            )
        return left

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Remove layers, in place.

        Args:
            model: a classifier or language model of `transformers`, or a reader of label words.
            calibration: its examples are read; with labels or target texts for ``loss``.

        Returns:
            The model, with the fact ``layers`` (`attar.core.damage.Damage`), and what was done.

        Raises:
            AttarError: see `legal`; or the model is quantized, or its weights are no numbers.
        """
        network, own = network_of(model), self.settings
        unquantized(model, "depth")
        finite(model)
        config = network.config.to_dict()
        left = next(size for name, size in self.legal(config, "").items() if name in COUNTS)
        before = _facts(network)
        found = choose_by_damage(
            model, calibration.task, calibration.examples, left, own.measure, own.texts, own.greedy
        )
        keep_layers(network, found.kept)
        gone = [str(place) for place in range(len(found.damage)) if place not in found.kept]
        note = f"layers left out: {', '.join(gone)} (of {len(found.damage)}, 0 the first), by {own.measure}"
        model.facts["layers"] = found.to_json()
        return model, Plan("depth", before, _facts(network), (note,))


def _facts(network: Any) -> dict[str, float]:
    parameters = sum(part.numel() for part in network.parameters())
    return {"parameters": parameters, "layers": int(network.config.num_hidden_layers)}
