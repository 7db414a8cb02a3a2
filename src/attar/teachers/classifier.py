"""Answer with a classifier: one that was trained in the run, or one that came ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attar.core.capture import joined, rows_with_features
from attar.core.examples import Examples
from attar.core.nouns import Model, Signal, Task
from attar.core.rows import Rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

EXAMPLES_PER_BATCH = 32


class ClassifierTeacher:
    """Answer with the logits of a classifier, in length-bucketed batches.

    Args:
        model: the classifier; it is put in evaluation mode.
        task: turns examples into its inputs.
        fingerprint: identity of weights, tokenizer and precision together.
        autocast: the type matrix products run in, ``torch.float32`` or ``torch.bfloat16``.
        features: names of what its layers shall give besides; see `attar.core.places.find`.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        fingerprint: str,
        autocast: torch.dtype | None = None,
        features: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.task = task
        self.fingerprint = fingerprint
        self.autocast = autocast
        self.features = features
        own: frozenset[Signal] = frozenset({"features"}) if features else frozenset()
        self.gives: frozenset[Signal] = own | {"logits", "hard"}
        model.module.eval()

    def answer(self, examples: Examples) -> Rows:
        """Return rows with float32 logits ``(examples, labels)``, in the examples' order.

        Features are float32 and padded to the longest of all examples; the feature ``mask`` tells tokens from padding.
        """
        order = np.argsort(-self.task.length(self.model, examples), kind="stable")
        parts = [
            self._batch(examples.take(order[first : first + EXAMPLES_PER_BATCH]))
            for first in range(0, len(order), EXAMPLES_PER_BATCH)
        ]
        if not parts:
            count = len(self.model.facts["labels"])
            return Rows(torch.zeros((0, 2), dtype=torch.long), torch.zeros(0), torch.zeros((0, count)))
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        logits = torch.cat([part.dense() for part in parts])[back]
        key = torch.cat([part.key for part in parts])[back]
        features = {name: tensor[back] for name, tensor in joined([part.features for part in parts]).items()}
        return Rows(key, torch.cat([part.weight for part in parts])[back], logits, features=features)

    def _batch(self, examples: Examples) -> Rows:
        """Return the rows of a few examples, in float32 on the CPU."""
        device = next(self.model.module.parameters()).device
        low = self.autocast not in (None, torch.float32)
        with torch.inference_mode(), torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=low):
            batch = self.task.collate(self.model, examples)
            rows = rows_with_features(self.task, self.model, batch, self.features)
            features = {name: _plain(tensor) for name, tensor in rows.features.items()}
            return Rows(rows.key.cpu(), rows.weight.float().cpu(), _plain(rows.dense()), features=features)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu()
