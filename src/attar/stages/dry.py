"""Tell what a model will cost before it is trained: export its shapes as they are, and time the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.examples import DataSet
from attar.core.nouns import Model
from attar.optional import lazy
from attar.stages.compress import Steps, apply_all, steps_at
from attar.stages.export import export
from attar.stages.measure import Contender, measure_files
from attar.store.files import folder_bytes, read_json, remove, write_json
from attar.students import folder as students

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TEXTS, WARMUP = 30, 5
"""Answers that are timed, and those before the first that counts."""
FEW = 16
"""Examples that untrained shapes are calibrated on: where cuts fall does not matter, only how large they are."""
CHEAP: Mapping[str, Mapping[str, Any]] = {
    "depth": {"measure": "influence", "texts": 4},
    "width": {"importance": "magnitude", "repair": False},
    "channels": {"importance": "magnitude"},
}
"""Settings with which a step gives the same shapes in a moment."""


@dataclass(frozen=True)
class Cost:
    """Hold what a bundle costs.

    Args:
        bytes: of all files that answering needs.
        p50: median milliseconds of one answer.
    """

    bytes: int
    p50: float


def dry_cost(make: Callable[[], Model], task: str, steps: Steps, data: DataSet, work: Path) -> Cost:
    """Return what the bundle of an untrained model costs after some steps; measured once, then read.

    Args:
        make: returns the model before training.
        task: the recipe's task.
        steps: ``(name, settings)`` in order.
        data: what steps calibrate on; the timed answers are to validation examples.
        work: folder that keeps the answer and is otherwise left empty.
    """
    note = work / "cost.json"
    if not note.is_file():
        remove(work)
        work.mkdir(parents=True)
        model = make()
        _unlike(model)
        cheap = [(name, {**settings, **CHEAP.get(name, {})}) for name, settings in steps]
        students.save(apply_all(model, task, cheap, data, FEW), work / "model")
        few = data.validation.take(np.arange(min(TEXTS, len(data.validation))))
        export(work / "model", task, steps_at("export", steps), data, (work, work / "bundle"))
        contender = Contender("candidate", "bundle", work / "bundle")
        timed = measure_files([contender], task, few, TEXTS, WARMUP, 0)["candidate"]["latency_ms"]
        cost = {"bytes": folder_bytes(work / "bundle"), "p50": timed["p50"]}
        for left in list(work.iterdir()):
            remove(left)
        write_json(note, cost)
    return Cost(**read_json(note))


def _unlike(model: Model) -> None:
    """Make the weights unlike each other: what is still all ones or zeros would be stored once in a file."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.module.parameters(), *model.module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(1e-3 * torch.rand(tensor.shape, generator=generator))
