"""Say what the key ``compress`` may hold: steps, how the model recovers from them, or a target to be solved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from attar import catalog
from attar.settings import Settings, Use
from attar.stages.schedule import TrainSettings

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SHARES = ("ratio", "macs", "mlp", "heads", "kv_heads", "hidden")
"""Settings of steps that are a share to remove: a step in rounds removes a part of each in every round."""


class RecoverSettings(TrainSettings):
    """Set how a model recovers from a step: a short training on what the teacher said.

    Example:
        >>> RecoverSettings(minutes=10).teacher
        'auto'
    """

    epochs: float = Field(1.0, gt=0, le=10000, description="passes over the training split")
    batch_size: int | None = Field(None, ge=1, le=65536, description="examples a step sees; the student's by default")  # type: ignore[assignment]
    learning_rate: float | None = Field(None, gt=0, le=10, description="at its highest; the student's by default")  # type: ignore[assignment]
    weight_decay: float | None = Field(None, ge=0, le=1, description="of AdamW; the student's by default")  # type: ignore[assignment]
    validations: int = Field(8, ge=1, le=1000, description="times the validation split is looked at")
    patience: int | None = Field(3, ge=1, description="validations without gain after which recovery stops")
    minutes: float | None = Field(
        None, gt=0, le=10000, description="instead of steps or epochs: as many steps as fit, by a measured step's time"
    )
    teacher: Literal["auto", "record", "self"] = Field(
        "auto", description="who is listened to: the teacher's record, or the model itself before the first step"
    )

    def training(self, student: TrainSettings) -> TrainSettings:
        """Return plain training settings, with the student's own where nothing else is said.

        Args:
            student: how it was trained.
        """
        named = ("batch_size", "micro_batch_size", "learning_rate", "weight_decay")
        own = {name: getattr(self, name) for name in TrainSettings.model_fields}
        return TrainSettings(**own | {name: getattr(student, name) for name in named if own[name] is None})


class Step(Use):
    """Choose a compression step, with its own settings beside; how the model recovers; in how many rounds.

    Example:
        >>> Step(use="depth", ratio=0.5, rounds=2).settings
        {'ratio': 0.5}
    """

    recover: RecoverSettings | bool | None = Field(
        None, description="how the model recovers: keys of training, true or false; steps that cut do by default"
    )
    rounds: int = Field(1, ge=1, le=100, description="the cut is made in so many parts, with a recovery after each")

    @property
    def recovery(self) -> RecoverSettings | None:
        """Return how the model recovers from the step; None if it does not."""
        if self.recover is None:
            return RecoverSettings() if getattr(catalog.entry("compressor", self.use), "cuts", False) else None
        if isinstance(self.recover, bool):
            return RecoverSettings() if self.recover else None
        return self.recover

    def parts(self) -> list[Step]:
        """Return the step's rounds, each removing an equal share of what the ones before it left.

        Example:
            >>> [one.settings for one in Step(use="depth", ratio=0.75, rounds=2).parts()]
            [{'ratio': 0.5}, {'ratio': 0.5}]
        """
        if self.rounds == 1:
            return [self]
        kept = {name: value for name, value in self.settings.items() if name in SHARES and isinstance(value, float)}
        every = getattr(catalog.entry("compressor", self.use), "counts_what_went", False)
        made = []
        for place in range(1, self.rounds + 1):
            share = {
                name: value * place / self.rounds if every else 1 - (1 - value) ** (1 / self.rounds)
                for name, value in kept.items()
            }
            made.append(self.model_copy(update={"rounds": 1, **share}))
        return made


class Target(Settings):
    """Set what the exported model may cost; the steps are solved from it.

    Example:
        >>> Target(bytes="10MB", p50="5ms")
        Target(bytes=10000000, p50=5.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int | None = Field(None, ge=1000, description="of the bundle, such as 10MB or 3 MiB")
    p50: float | None = Field(
        None, gt=0, description="median milliseconds of an answer to one of the data's examples, such as 5ms"
    )

    @field_validator("bytes", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        return round(_quantity(value, UNITS, "bytes")) if isinstance(value, str) else value

    @field_validator("p50", mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        return _quantity(value, MILLISECONDS, "p50") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _asks(self) -> Target:
        if self.bytes is None and self.p50 is None:
            raise ValueError("a target needs bytes (such as 10MB), p50 (such as 5ms), or both")
        return self


class CompressSettings(Settings):
    """Set how the student is compressed: a list of steps in order, or a target from which they are solved."""

    steps: tuple[Step, ...] = Field((), description="compression steps, in order; [] for none")
    to: Target | None = Field(None, description="what the bundle may cost; the steps are solved from it")
    recover: RecoverSettings = Field(RecoverSettings(), description="how the model recovers from solved steps")
    dense: bool = Field(
        True, description="where steps cut, also train the next smaller models that were not cut, to compare"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, Mapping) and "use" in value):
            return {"steps": [value]}
        return {"steps": list(value)} if isinstance(value, (list, tuple)) else value

    @model_validator(mode="after")
    def _one_of_both(self) -> CompressSettings:
        if self.to is not None and self.steps:
            raise ValueError("give steps or a target (to), not both: the steps are solved from the target")
        return self

    @property
    def on_model(self) -> tuple[Step, ...]:
        """Return the steps that work on the model, in order, their rounds laid out."""
        return tuple(part for step in self.steps if _at(step) == "model" for part in step.parts())

    @property
    def on_graph(self) -> tuple[Step, ...]:
        """Return the steps that work on the exported graph, in order."""
        return tuple(step for step in self.steps if _at(step) == "export")


def _at(step: Step) -> str:
    place: str = catalog.entry("compressor", step.use).at
    return place


def _quantity(value: str, units: Mapping[str, float], name: str) -> float:
    found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", value)
    if not found or found[2] not in units:
        raise ValueError(f"{name} must be a number with a unit ({', '.join(units)}), got {value!r}")
    return float(found[1]) * units[found[2]]
