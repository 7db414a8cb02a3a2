"""Learn a prompt into the weights: show the teacher's prompt to a share of the examples, to fewer and fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.core.reading import first_tokens
from attar.errors import AttarError
from attar.objectives.ramp import Ramp
from attar.settings import Settings


class PromptDropoutSettings(Settings):
    """Set how many examples a student reads under its teacher's prompt while it learns to do without.

    Example:
        >>> settings = PromptDropoutSettings()
        >>> [settings.at(progress) for progress in (0, 0.25, 0.5, 1)]
        [1.0, 0.5, 0.0, 0.0]
    """

    share: Annotated[float, Field(ge=0, le=1)] | Ramp = Field(
        Ramp(start=1, end=0, until=0.5),
        description="of a step's examples that are read under the teacher's prompt; a ramp {start, end} changes it",
    )

    @field_validator("share")
    @classmethod
    def _is_a_share(cls, value: float | Ramp) -> float | Ramp:
        if isinstance(value, Ramp) and value.most > 1:
            raise ValueError(f"both ends of the share must be in [0, 1], got {value.start:g} and {value.end:g}")
        return value

    def at(self, progress: float) -> float:
        """Return the share at a share of training in [0, 1]."""
        return self.share.at(progress) if isinstance(self.share, Ramp) else self.share


class PromptDropout:
    """Have a share of a step's examples read under the teacher's whole prompt, the rest under the student's own.

    Only what the student reads changes: what it is compared with is the teacher's record, which holds one answer for
    each example. Validation never passes here, so the best step is the best without the teacher's prompt.

    Of a step of n examples ``share · n`` are chosen, rounded up or down by chance so that the mean is exact; they come
    first, so that micro-batches hold examples of like length. Choices are a function of the step's seed: there is no
    state.

    A student that begins as its teacher agrees with it under the whole prompt and learns nothing from such examples:
    there a large share costs time and gives only that the prompt still works. A student with fewer layers gains by it.

    Args:
        settings: see `PromptDropoutSettings`.
        whole: what the teacher read when it was recorded.

    Reference:
        Zou et al., "PromptIntern", 2024 (a prompt that is taken away over training; there in parts, for all
        examples at once); Snell et al., "Learning by Distilling Context", 2022, for distilling without it.
    """

    def __init__(self, settings: PromptDropoutSettings, whole: TextPrompt) -> None:
        self.settings = settings
        self.whole = whole
        self._fits = False

    def __call__(self, model: Model, examples: Examples, seed: int, progress: float) -> Examples:
        """Return the examples of a step, some of them with the whole prompt.

        Args:
            model: the student.
            examples: of the step.
            seed: of this step.
            progress: share of training that is done, in [0, 1].

        Raises:
            AttarError: the student cannot read the prompt.
        """
        if not self._fits:
            _check(model, self.whole)
            self._fits = True
        random = np.random.Generator(np.random.PCG64(seed))
        count = int(self.settings.at(progress) * len(examples) + random.random())
        if count == 0:
            return examples
        order = random.permutation(len(examples))
        order = np.concatenate([np.sort(order[:count]), np.sort(order[count:])])
        prompts = [*[self.whole] * count, *[None] * (len(examples) - count)]
        return replace(examples.take(order), prompts=prompts)

    def state(self) -> dict[str, Any]:
        """Return what is remembered: nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember nothing."""


def bare_prompt(prompt: TextPrompt) -> TextPrompt:
    r"""Return the shortest prompt that asks alike: without instruction, demonstrations and calibration.

    A student that learns under it writes, or chooses, the same tokens as under the whole prompt.

    Example:
        >>> whole = TextPrompt("Review: {text}\nMood:", ("sad", "glad"), instruction="Judge the review.")
        >>> bare_prompt(whole).render("Fits well.")
        'Review: Fits well.\nMood:'
    """
    return replace(prompt, instruction="", demonstrations=(), calibration=None, name="bare")


def _check(model: Model, whole: TextPrompt) -> None:
    """Refuse a student that cannot read the teacher's prompt, or would answer it with other tokens than its own."""
    if "prompt" not in model.facts:
        raise AttarError(
            "Prompt dropout is for students that read a prompt of their own, and this one reads the text alone. Set "
            "answers_by: label_words, or leave prompt dropout out."
        )
    own = TextPrompt.from_json(model.facts["prompt"])
    same = own.chat == whole.chat
    if own.words or whole.words:
        same = first_tokens(model.processor, own) == first_tokens(model.processor, whole)
    if not same:
        raise AttarError(
            f"Under the teacher's prompt '{whole.name}' an answer begins with other tokens than under the student's "
            f"own '{own.name}': both must have the same label words, and both chat or neither. Change the student's "
            "prompt, or leave prompt dropout out."
        )
    _check_room(model, whole)


def _check_room(model: Model, whole: TextPrompt) -> None:
    config: Any = model.module.config
    positions = getattr(config, "max_position_embeddings", None)
    tokens = prompt_tokens(model.processor, whole)
    most = tokens + int(model.facts["max_length"]) + int(model.facts.get("max_new_tokens", 0))
    if positions is not None and most > int(positions):
        raise AttarError(
            f"The teacher's prompt '{whole.name}' has {tokens} tokens; with a text and an answer that makes {most}, "
            f"and the student reads {positions}. Set a smaller student.max_length, or leave prompt dropout out."
        )
