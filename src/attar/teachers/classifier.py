"""Answer with a classifier: one that was trained in the run, or one that came ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    """

    def __init__(self, model: Model, task: Task, fingerprint: str, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.task = task
        self.fingerprint = fingerprint
        self.autocast = autocast
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})
        model.module.eval()

    def answer(self, examples: Examples) -> Rows:
        """Return rows with float32 logits ``(examples, labels)``, in the examples' order."""
        order = np.argsort(-self.task.length(self.model, examples), kind="stable")
        device = next(self.model.module.parameters()).device
        low = self.autocast not in (None, torch.float32)
        parts = []
        with torch.inference_mode(), torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=low):
            for first in range(0, len(order), EXAMPLES_PER_BATCH):
                batch = self.task.collate(self.model, examples.take(order[first : first + EXAMPLES_PER_BATCH]))
                parts.append(self.task.rows(self.model, batch))
        if not parts:
            count = len(self.model.facts["labels"])
            return Rows(torch.zeros((0, 2), dtype=torch.long), torch.zeros(0), torch.zeros((0, count)))
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        logits = torch.cat([part.dense().float().cpu() for part in parts])[back]
        key = torch.cat([part.key.cpu() for part in parts])[back]
        return Rows(key, torch.cat([part.weight.float().cpu() for part in parts])[back], logits)
