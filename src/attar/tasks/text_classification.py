"""Classify a text: one row an example, a score for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Batch, Model
from attar.core.prompt import TextPrompt
from attar.core.reading import frame_of, token_ids
from attar.core.rows import Rows, example_rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class TextClassification:
    """Read texts with a tokenizer, under the model's prompt if it has one; say one row an example.

    Example:
        >>> TextClassification.metric
        'accuracy'
    """

    name: ClassVar[str] = "text-classification"
    metric: ClassVar[str] = "accuracy"
    default_export: ClassVar[str] = "onnx"
    chooses_by: ClassVar[str] = "accuracy"
    input_kind: ClassVar[str] = "text"
    default_compression: ClassVar[tuple[str, ...]] = ("vocabulary", "dynamic_int8")

    def collate(self, model: Model, examples: Examples) -> Batch:
        """Return token ids and attention mask, each ``(batch, time)``, padded on the right to the longest."""
        inputs = tokenize(model, _texts(examples), examples.prompts)
        tensors = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        return Batch(examples, tensors, torch.from_numpy(np.ascontiguousarray(examples.labels)))

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return rows with logits ``(examples, labels)``, less the calibration of the prompt that was read."""
        device = next(model.module.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        logits = model.module(**inputs).logits
        return example_rows(batch.keys.to(device), _calibrated(model, batch.examples, logits))

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return the number of tokens of each example, its prompt counted in ``(examples,)``."""
        return np.array([len(ids) for ids in text_ids(model, _texts(examples), examples.prompts)], np.int64)


def _texts(examples: Examples) -> list[str]:
    return [str(text) for text in examples.inputs]


Prompts = Sequence[TextPrompt | None] | None
"""The prompt of each text, None for the model's own; None where all are read under that."""


def text_ids(model: Model, texts: Sequence[str], prompts: Prompts = None) -> list[list[int]]:
    """Return the ids a model reads of each text: the text cut to the model's ``max_length``, its prompt around it.

    Args:
        model: a model of texts; one without a prompt of its own reads none.
        texts: the examples.
        prompts: what to read in place of the model's own prompt (`attar.core.examples.Examples.prompts`).
    """
    if not texts:  # tokenizers refuse an empty batch
        return []
    longest = model.facts["max_length"]
    if "prompt" not in model.facts:
        found = model.processor(list(texts), truncation=True, max_length=longest)
        return [list(ids) for ids in found["input_ids"]]
    own = TextPrompt.from_json(model.facts["prompt"])
    read = [own if prompt is None else prompt for prompt in prompts or [None] * len(texts)]
    ids: dict[int, list[int]] = {}
    for prompt in set(read):
        places = [place for place, one in enumerate(read) if one == prompt]
        frame = frame_of(model.processor, prompt, longest)
        ids |= zip(places, token_ids(model.processor, frame, [texts[i] for i in places]), strict=True)
    return [ids[place] for place in range(len(texts))]


def tokenize(model: Model, texts: Sequence[str], prompts: Prompts = None) -> Any:
    """Return ids and attention mask of texts, each ``(texts, time)``: prompt included, padded on the right."""
    if "prompt" in model.facts:
        return _padded(text_ids(model, texts, prompts), int(model.processor.pad_token_id))
    return model.processor(
        list(texts), padding=True, truncation=True, max_length=model.facts["max_length"], return_tensors="pt"
    )


def _calibrated(model: Model, examples: Examples, logits: torch.Tensor) -> torch.Tensor:
    """Return scores ``(examples, labels)`` less the calibration of the prompt that each example was read under."""
    if "prompt" not in model.facts:
        return logits
    own, nothing = model.facts["prompt"]["calibration"], [0.0] * logits.shape[1]
    biases = [own if prompt is None else prompt.calibration for prompt in examples.prompts or [None]]
    return logits - logits.new_tensor([nothing if bias is None else bias for bias in biases])


def _padded(rows: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    longest = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), longest), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
