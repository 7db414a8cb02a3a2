"""Answer with a language model, live: what it says of every token of the examples' targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model, Signal, Task
from attar.core.rows import Rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TOKENS_PER_BATCH = 2048
"""Padded tokens a forward pass takes at once."""

SCORED = 256
"""Rows whose scores are laid out at once."""


class LanguageModelTeacher:
    """Answer with hidden states and the head, so that no vocabulary is laid out before it is needed.

    Args:
        model: a causal language model; it is put in evaluation mode.
        task: turns examples into its inputs.
        fingerprint: identity of weights, tokenizer, prompt and precision together.
        dtype: the type its weights are turned into, ``torch.float32`` or ``torch.bfloat16``; None leaves them.
    """

    def __init__(self, model: Model, task: Task, fingerprint: str, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.task = task
        self.fingerprint = fingerprint
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})
        model.module.to(dtype=dtype).eval()

    def answer(self, examples: Examples) -> Rows:
        """Return rows with hidden states ``(tokens, width)``, example by example, in the examples' order."""
        lengths = self.task.length(self.model, examples)
        order = np.argsort(-lengths, kind="stable")
        parts, owners = [], []
        device = next(self.model.module.parameters()).device
        # a student's autocast, within which it may be asked, is not its own
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            first = 0
            while first < len(order):
                count = max(1, TOKENS_PER_BATCH // max(1, int(lengths[order[first]])))
                places = order[first : first + count]
                batch = self.task.collate(self.model, examples.take(places))
                parts.append(self.task.rows(self.model, batch))
                owners.append(torch.from_numpy(places)[batch.inputs["example"]])
                first += count
        return _joined(parts, owners) if parts else self.task.rows(self.model, self.task.collate(self.model, examples))

    def likelihood(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return what the model gives to the examples' own targets.

        The end of a target that was cut counts for nothing.

        Returns:
            Summed negative log-likelihood ``(examples,)`` in nats, and the tokens it is the sum of ``(examples,)``.
        """
        if not len(examples):
            return np.zeros(0), np.zeros(0)
        rows, batch = self.answer(examples), self.task.collate(self.model, examples)
        targets, owner = batch.targets.to(rows.key.device), batch.inputs["example"].numpy()
        losses = [
            torch.nn.functional.cross_entropy(
                rows.take(part).dense().float(), targets[part], reduction="none", ignore_index=UNKNOWN
            )
            for part in rows.slices(SCORED)
        ]
        summed = np.bincount(owner, torch.cat(losses).cpu().numpy().astype(np.float64), len(examples))
        return summed, np.bincount(owner, (batch.targets != UNKNOWN).numpy().astype(np.float64), len(examples))


def _joined(parts: list[Rows], owners: list[torch.Tensor]) -> Rows:
    """Put the rows of several batches in the order of their examples; those of one example are in order already."""
    back = torch.argsort(torch.cat(owners), stable=True).to(parts[0].key.device)
    key = torch.cat([part.key for part in parts])[back]
    weight = torch.cat([part.weight for part in parts])[back]
    hidden = torch.cat([part.hidden for part in parts if part.hidden is not None])[back]
    return Rows(key, weight, hidden=hidden, head=parts[0].head).detach()
