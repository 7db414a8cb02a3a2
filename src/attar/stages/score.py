"""Score a model on examples with hard targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model, Task
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BATCH = 64
"""Examples read at once."""
ROWS = 256
"""Rows whose scores are laid out at once."""


def score(model: Model, task: Task, examples: Examples) -> tuple[float, float]:
    """Return the share of rows whose likeliest choice is the target, and the mean cross-entropy in nats.

    Rows without a target do not count; with none at all both are 0.

    Args:
        model: is put in evaluation mode.
        task: turns examples into rows.
        examples: with their targets.
    """
    model.module.eval()
    order = np.argsort(-task.length(model, examples), kind="stable")
    right, loss, count = 0.0, 0.0, 0
    with torch.inference_mode():
        for first in range(0, len(order), BATCH):
            batch = task.collate(model, examples.take(order[first : first + BATCH]))
            rows = task.rows(model, batch)
            for part in rows.slices(ROWS):
                scores, targets = rows.take(part).dense().float(), batch.targets[part].to(rows.key.device)
                known = targets != UNKNOWN
                right += float((scores.argmax(-1) == targets)[known].sum())
                loss += float(torch.nn.functional.cross_entropy(scores[known], targets[known], reduction="sum"))
                count += int(known.sum())
    return right / max(1, count), loss / max(1, count)
