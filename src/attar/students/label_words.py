"""Make classifiers of causal language models that answer with their own head, by the label words after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.core.reading import first_tokens
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.causal import CausalStudent, language_model
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SPARE = 8
"""Positions kept free: the tokens of prompt and text together can be a few more than apart."""


class LabelWordStudent:
    """Make, save and load language models that classify by label words; plain `transformers` reads what is saved."""

    def make(self, settings: ModelSettings, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return a language model, which `finish` makes a classifier once its facts name the prompt.

        Raises:
            AttarError: there are no labels, no causal language model, or fewer layers than asked for.
        """
        if not labels or shape:
            raise AttarError("answers_by: label_words is for classes of texts. Set answers_by: head.")
        made = CausalStudent().make(settings, weights, (), ())
        return replace(made, kind="label_words", facts={**made.facts, "labels": list(labels)})

    def finish(self, model: Model) -> Model:
        """Return the classifier that reads the words of the prompt in the model's facts.

        Raises:
            AttarError: there is no prompt, its words do not tell the labels apart, or it leaves a text no room.
        """
        if "prompt" not in model.facts:
            raise AttarError("A model that answers by label words needs a prompt that names a word for each label.")
        prompt, labels = TextPrompt.from_json(model.facts["prompt"]), model.facts["labels"]
        if len(prompt.words) != len(labels):
            raise AttarError(
                f"The prompt '{prompt.name}' must have one word for each label: the labels are {labels}, the words "
                f"{list(prompt.words)}."
            )
        # a subclass of torch's: torch must be there, and what `attar check` imports must not need it
        from attar.students.label_word_classifier import LabelWordClassifier

        room = _room(model, prompt)
        classifier = LabelWordClassifier(model.module, first_tokens(model.processor, prompt))
        return replace(
            model,
            module=classifier.train(model.module.training),
            facts={**model.facts, "max_length": min(model.facts["max_length"], room)},
        )

    def save(self, model: Model, folder: Path) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` reads."""
        model.module.lm.save_pretrained(folder)  # type: ignore[union-attr, operator]
        model.processor.save_pretrained(folder)

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the classifier that `save` wrote."""
        module, tokenizer = language_model(folder, torch.float32)
        return self.finish(Model(module, "label_words", tokenizer, facts))


def _room(model: Model, prompt: TextPrompt) -> int:
    """Return the tokens of a text that fit into the model's positions beside the prompt."""
    positions = getattr(model.module.config, "max_position_embeddings", None)
    if positions is None:
        return int(model.facts["max_length"])
    tokens = prompt_tokens(model.processor, prompt)
    room = int(positions) - tokens - SPARE
    if room < 1:
        raise AttarError(
            f"The prompt '{prompt.name}' has {tokens} tokens, and the model reads {positions} in all: no room is left "
            "for a text. Take demonstrations out, or shorten the instruction."
        )
    return room
