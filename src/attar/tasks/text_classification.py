"""Classify a text: one row an example, a score for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Batch, Model
from attar.core.rows import Rows, example_rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class TextClassification:
    """Read texts with a tokenizer; say one row an example.

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
        inputs = tokenize(model, _texts(examples))
        tensors = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        return Batch(examples, tensors, torch.from_numpy(np.ascontiguousarray(examples.labels)))

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return rows with logits ``(examples, labels)``."""
        device = next(model.module.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        return example_rows(batch.keys.to(device), model.module(**inputs).logits)

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return the number of tokens of each example ``(examples,)``."""
        if len(examples) == 0:  # tokenizers refuse an empty batch
            return np.zeros(0, np.int64)
        encoded = model.processor(_texts(examples), truncation=True, max_length=model.facts["max_length"])
        return np.array([len(ids) for ids in encoded["input_ids"]])


def _texts(examples: Examples) -> list[str]:
    return [str(text) for text in examples.inputs]


def tokenize(model: Model, texts: Sequence[str]) -> Any:
    """Return the tokenizer's tensors for texts, cut to the model's ``max_length``."""
    return model.processor(
        list(texts), padding=True, truncation=True, max_length=model.facts["max_length"], return_tensors="pt"
    )
