"""Order examples and steps: which batch each step sees, and at which learning rate, as pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from attar.seeds import derive
from attar.settings import Settings

BUCKET_BATCHES = 16  # batches whose examples are sorted by length together: little padding, still mixed


class TrainSettings(Settings):
    """Set how a model is trained."""

    epochs: float = Field(3.0, gt=0, le=10000, description="passes over the training split")
    steps: int | None = Field(None, ge=1, description="optimizer steps, instead of `epochs`")
    batch_size: int = Field(32, ge=1, le=65536, description="examples an optimizer step sees")
    micro_batch_size: int | None = Field(None, ge=1, description="examples computed at once; gradients are accumulated")
    learning_rate: float = Field(1e-4, gt=0, le=10, description="at the end of the warm-up")
    weight_decay: float = Field(0.01, ge=0, le=1, description="of AdamW; biases and norms are spared")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises from 0")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of matrix products (autocast)")
    validations: int = Field(4, ge=1, le=1000, description="times the validation split is looked at")
    patience: int | None = Field(None, ge=1, description="validations without gain after which training stops")
    checkpoint_seconds: float = Field(30.0, ge=0, description="between two checkpoints")

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> TrainSettings:
        own: int | None = self.batch_size  # a recovery may leave it to the student
        if self.micro_batch_size is not None and own is not None and self.micro_batch_size > own:
            raise ValueError(f"micro_batch_size must be <= batch_size ({self.batch_size}), got {self.micro_batch_size}")
        return self


class Schedule:
    """Say for every step what it sees; equal arguments give equal schedules, so a resumed run repeats itself.

    Args:
        lengths: ``(examples,)`` cost of each example; batches hold examples of like cost.
        settings: see `TrainSettings`.
        seed: of the order.

    Example:
        >>> plan = Schedule(np.ones(10), TrainSettings(batch_size=4, epochs=2), seed=0)
        >>> plan.steps, [sum(len(plan.batch(step)) for step in epoch) for epoch in (range(3), range(3, 6))]
        (6, [10, 10])
    """

    def __init__(self, lengths: np.ndarray, settings: TrainSettings, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._settings = settings
        self._seed = seed
        self.steps_per_epoch = math.ceil(len(self._lengths) / settings.batch_size)
        self.steps = settings.steps or max(1, round(settings.epochs * self.steps_per_epoch))
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, step: int) -> np.ndarray:
        """Return the places of the examples that a step sees."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def _order(self, epoch: int) -> list[np.ndarray]:
        random = np.random.Generator(np.random.PCG64(derive(self._seed, "epoch", epoch)))
        shuffled = random.permutation(len(self._lengths))
        size = self._settings.batch_size
        batches: list[np.ndarray] = []
        for first in range(0, len(shuffled), size * BUCKET_BATCHES):
            bucket = shuffled[first : first + size * BUCKET_BATCHES]
            bucket = bucket[np.argsort(self._lengths[bucket], kind="stable")]
            batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warm-up, then half a cosine to 0."""
        warm = round(self._settings.warmup * self.steps)
        if step < warm:
            return self._settings.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self._settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))

    def validates(self, step: int) -> bool:
        """Tell whether the validation split is looked at after a step: evenly spread, and at the end."""
        count = min(self._settings.validations, self.steps)
        return (step + 1) * count // self.steps > step * count // self.steps
