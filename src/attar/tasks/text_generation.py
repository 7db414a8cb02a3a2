"""Write a text for a text: one row a token of the completion, a score for each token of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Batch, Model
from attar.core.prompt import TextPrompt, cut, encode
from attar.core.rows import Head, Rows, score_shape
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class TextGeneration:
    """Read a prompt with a text in it, and say what comes next: the target's tokens and the end.

    Only the completion's tokens are rows; the prompt is read, never learned. The row at position i of an example is
    what the model says of the completion's token i, after everything before it. Texts of like length are batched and
    padded on the right, where causal attention never looks, so no text sees another.

    Example:
        >>> TextGeneration.metric
        'rouge_l'
    """

    name: ClassVar[str] = "text-generation"
    metric: ClassVar[str] = "rouge_l"
    default_export: ClassVar[str] = "hf"
    chooses_by: ClassVar[str] = "loss"
    input_kind: ClassVar[str] = "text"
    default_compression: ClassVar[tuple[str, ...]] = ()

    def collate(self, model: Model, examples: Examples) -> Batch:
        """Return token ids ``(batch, time)``, and for each row its example's place and its time.

        An example without a target text has no rows. The rows of what the model wrote itself have no hard targets, and
        neither has the end of a target that was cut: to stop there is not to be learned.
        """
        pairs = _tokens(model, examples)
        longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=1)
        ids = torch.zeros((len(pairs), longest), dtype=torch.long)
        for row, (prompt, answer) in enumerate(pairs):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        counts = torch.tensor([len(answer) for _, answer in pairs], dtype=torch.long)
        place = torch.cat([counts[:0], *(torch.arange(int(n)) for n in counts)])
        first = torch.tensor([len(prompt) - 1 for prompt, _ in pairs], dtype=torch.long)
        example = torch.repeat_interleave(torch.arange(len(pairs)), counts)
        inputs = {"input_ids": ids, "example": example, "time": first[example] + place, "place": place}
        targets = torch.tensor([i for _, answer in pairs for i in answer], dtype=torch.long)
        ends = counts.cumsum(0)[counts > 0] - 1
        lost = torch.tensor([was_cut(model, target) for _, target in _texts(examples) if target], dtype=torch.bool)
        targets[ends[lost]] = UNKNOWN
        if examples.own is not None:
            targets = targets.masked_fill(torch.from_numpy(examples.own)[example], UNKNOWN)
        return Batch(examples, inputs, targets)

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return rows with hidden states and head, in the order of examples, then of positions."""
        network: Any = model.module
        device = next(network.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        if len(inputs["time"]) == 0:
            nothing = torch.zeros((0, network.config.hidden_size), device=device)
            key = torch.zeros((0, 2), dtype=torch.long, device=device)
            return Rows(key, nothing.sum(dim=1), hidden=nothing, head=head_of(network))
        states = network.base_model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
        hidden = states[inputs["example"], inputs["time"]]
        key = torch.stack([batch.keys.to(device)[inputs["example"]], inputs["place"]], dim=1)
        return Rows(key, torch.ones(len(key), device=device), hidden=hidden, head=head_of(network))

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return the number of tokens of each example, prompt and completion ``(examples,)``."""
        return np.array([len(prompt) + len(answer) for prompt, answer in _tokens(model, examples)], np.int64)


def head_of(network: Any) -> Head:
    """Return the last layer of a causal language model of `transformers`."""
    last = network.get_output_embeddings()
    return Head(last.weight, getattr(last, "bias", None), *score_shape(network.config))


def prompt_of(model: Model) -> TextPrompt:
    """Return the prompt that a model was made to read."""
    return TextPrompt.from_json(model.facts["prompt"])


def prompt_tokens(model: Model, text: str, prompt: TextPrompt | None = None) -> list[int]:
    """Return the token ids of a prompt, the model's own by default, with a text in it; a longer text loses its end."""
    read = prompt_of(model) if prompt is None else prompt
    return encode(model.processor, read, cut(model.processor, text, model.facts["max_length"]))


def completion_tokens(model: Model, target: str) -> list[int]:
    """Return the token ids of a target text and the end: what the model shall write."""
    return [*_written(model, target)[: model.facts["max_new_tokens"] - 1], int(model.processor.eos_token_id)]


def was_cut(model: Model, target: str) -> bool:
    """Tell whether a target text is longer than what the model may write."""
    return len(_written(model, target)) >= int(model.facts["max_new_tokens"])


def _written(model: Model, target: str) -> list[int]:
    text = target if prompt_of(model).chat else f" {target}"
    return list(model.processor(text, add_special_tokens=False).input_ids)


def _texts(examples: Examples) -> Sequence[tuple[str, str]]:
    targets = examples.targets if examples.targets is not None else [""] * len(examples)
    return [(str(text), target) for text, target in zip(examples.inputs, targets, strict=True)]


def _tokens(model: Model, examples: Examples) -> list[tuple[list[int], list[int]]]:
    """Return of each example the token ids of its prompt, and of its target and the end."""
    prompts = examples.prompts if examples.prompts is not None else [None] * len(examples)
    return [
        (prompt_tokens(model, text, prompt), completion_tokens(model, target) if target else [])
        for (text, target), prompt in zip(_texts(examples), prompts, strict=True)
    ]
