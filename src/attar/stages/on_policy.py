"""Let a student learn from what it writes itself, judged by its live teacher (on-policy distillation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.seeds import derive
from attar.settings import Settings
from attar.tasks.writing import WritingSettings, write


class OnPolicySettings(Settings):
    """Set how much of what a student learns from it writes itself.

    Example:
        >>> OnPolicySettings().share
        0.5
    """

    share: float = Field(0.5, gt=0, le=1, description="of the examples of a step that the student's own texts replace")
    buffer: int = Field(256, ge=0, le=100000, description="own texts kept, to be learned from again; 0 for none")
    fresh: float = Field(0.5, gt=0, le=1, description="share of the own texts that are written anew in each step")
    temperature: float = Field(1.0, gt=0, le=10, description="of the sampling")
    start: float = Field(0.0, ge=0, lt=1, description="share of training before the first own text")


class _Own(NamedTuple):
    """Hold a text that the student wrote, under a key of its own."""

    key: int
    text: str
    target: str


class OnPolicy:
    """Replace a part of each step's examples by texts that the student wrote; the rest stays as it is.

    Each example is replaced with probability ``share``: with probability ``fresh`` by what the student writes for it
    now, else by a text of the buffer, which holds the newest texts that were written before. A new text joins the
    buffer after its step. Every own text is marked (`attar.core.examples.Examples.own`), so no hard target is made
    of it, and has a key of its own, so that keys stay unique in the step. Where the student writes nothing, the
    example stays.

    Choices are a function of the step's seed; the buffer is the only state, and is saved with each checkpoint.

    Args:
        settings: see `OnPolicySettings`.

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models", 2024, algorithm 1; Ko et al., "DistiLLM", 2024,
        section 3.2 (the replay buffer).
    """

    def __init__(self, settings: OnPolicySettings) -> None:
        self.settings = settings
        self._buffer: list[_Own] = []

    def __call__(self, model: Model, examples: Examples, seed: int, progress: float) -> Examples:
        """Return the examples of a step, some with another text and target.

        Args:
            model: the student; it is put in evaluation mode while it writes.
            examples: of the step.
            seed: of this step.
            progress: share of training that is done, in [0, 1].
        """
        if progress < self.settings.start:
            return examples
        random = np.random.Generator(np.random.PCG64(seed))
        chosen = np.flatnonzero(random.random(len(examples)) < self.settings.share)
        again = chosen[random.random(len(chosen)) >= self.settings.fresh][: len(self._buffer)]
        new = np.setdiff1d(chosen, again)
        kept = [self._buffer[int(i)] for i in random.permutation(len(self._buffer))[: len(again)]]
        written = self._written(model, examples.take(new), seed)
        own = dict(zip(again.tolist(), kept, strict=True))
        own |= {place: one for place, one in zip(new.tolist(), written, strict=True) if one.target}
        fresh = [one for one in written if one.target]
        self._buffer = [*self._buffer, *fresh][-self.settings.buffer :] if self.settings.buffer else []
        return _replaced(examples, own)

    def state(self) -> dict[str, Any]:
        """Return the buffer as JSON values."""
        return {"buffer": [list(one) for one in self._buffer]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the buffer of `state`; an empty state empties it."""
        self._buffer = [_Own(int(key), str(text), str(target)) for key, text, target in state.get("buffer", ())]

    def _written(self, model: Model, examples: Examples, seed: int) -> Sequence[_Own]:
        """Return what the student writes now for each example."""
        if not len(examples):
            return []
        texts = [str(text) for text in examples.inputs]
        how = WritingSettings(how="sample", temperature=self.settings.temperature)
        was_training = model.module.training
        model.module.eval()
        written = write(model, texts, how, derive(seed, "own"))
        model.module.train(was_training)
        keys = [derive(int(key), "own", seed) for key in examples.keys]
        return [_Own(key, text, one[0]) for key, text, one in zip(keys, texts, written, strict=True)]


def _replaced(examples: Examples, own: Mapping[int, _Own]) -> Examples:
    """Return the examples with own texts in some places, which are marked."""
    keys, inputs = examples.keys.copy(), [str(text) for text in examples.inputs]
    targets = list(examples.targets) if examples.targets is not None else [""] * len(examples)
    marks = np.zeros(len(examples), bool)
    for place, one in own.items():
        keys[place], inputs[place], targets[place], marks[place] = one.key, one.text, one.target, True
    return Examples(keys, inputs, examples.labels, targets, marks)
