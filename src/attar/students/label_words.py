"""Make classifiers of causal language models that answer with their own head, by the label words after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.core.reading import first_tokens
from attar.core.rows import Head, score_shape
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


class LabelWordClassifier(torch.nn.Module):
    """Read a language model's scores of a few words at the last token of each row.

    Only the last token's hidden state goes through the head, and of the head only the words' rows: the vocabulary is
    never laid out. Rows are padded on the right, where causal attention does not look.

    Args:
        lm: a causal language model of `transformers`.
        word_ids: the token that stands for each label, in the order of the labels.
    """

    words: torch.Tensor

    def __init__(self, lm: Any, word_ids: Sequence[int]) -> None:
        super().__init__()
        self.lm = lm
        # not saved: the prompt's words say it, and what is saved is a plain language model
        self.register_buffer("words", torch.tensor(list(word_ids)), persistent=False)

    @property
    def config(self) -> Any:
        """Return the language model's configuration."""
        return self.lm.config

    def set_attn_implementation(self, kind: str) -> None:
        """Choose how the language model computes attention; see `transformers`."""
        self.lm.set_attn_implementation(kind)

    def get_input_embeddings(self) -> Any:
        """Return the language model's embeddings."""
        return self.lm.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
    ) -> Any:
        """Return an output whose ``logits (batch, labels)`` are the words' scores at the last real token.

        Args:
            input_ids: ``(batch, time)``, padded on the right.
            attention_mask: ``(batch, time)`` or longer, where there are keys before: 1 for a token, 0 for padding.
                None where no row is padded.
            inputs_embeds: ``(batch, time, width)``, instead of ids.
            past_key_values: keys and values of what stands before, in the library's cache; it grows.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = self.lm.base_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        ).last_hidden_state
        hidden = _last(states, attention_mask)
        head = self.lm.get_output_embeddings()
        rows = torch.nn.functional.embedding(self.words, head.weight)
        bias = None if getattr(head, "bias", None) is None else head.bias[self.words]
        scores = Head(rows, bias, *score_shape(self.config)).finish(torch.nn.functional.linear(hidden, rows))
        return SequenceClassifierOutput(logits=scores)


def _last(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return each row's state ``(batch, width)`` at its last real token."""
    if mask is None:
        return states[:, -1]
    place = mask[:, -states.shape[1] :].sum(dim=1) - 1
    return states[torch.arange(states.shape[0], device=states.device), place]


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
