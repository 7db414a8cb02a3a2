"""Let a model recover from a compression step: a short training on what its teacher said, in the one loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model, Teacher
from attar.optional import lazy
from attar.stages.device import choose_device, choose_precision
from attar.stages.lesson import Lesson, accumulate
from attar.stages.schedule import Schedule, TrainSettings
from attar.store.files import read_json, write_json
from attar.students import folder as students

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PROBES = 5
"""Steps whose time is taken to tell how many fit into some minutes; the first warms up and does not count."""


@dataclass(frozen=True)
class Restart:
    """Start from a model that a step left.

    Args:
        folder: of the model.
    """

    folder: Path

    def make(self) -> Model:
        """Return the model."""
        return students.load(self.folder)

    @contextmanager
    def held(self, model: Model) -> Iterator[None]:
        """Keep what the steps before decided while the model is trained: zeros stay zeros, a grid a grid."""
        from attar.compressors.prune.masks import hold_zeros
        from attar.compressors.quantize.aware import fake_quantized

        grid = fake_quantized(model) if "quantized" in model.facts else nullcontext()
        with hold_zeros(model), grid:
            yield


def within(minutes: float, lesson: Lesson, folder: Path, settings: TrainSettings, places: tuple[Path, str]) -> int:
    """Return how many training steps fit into some minutes on this machine.

    The answer is kept in the work folder: a run that was killed goes on with it.

    Args:
        minutes: for training.
        lesson: what will be taught.
        folder: of the model.
        settings: of the training.
        places: work folder, and the device's name.
    """
    work, device = places
    path = work / "steps.json"
    if not path.is_file():
        took = _step_seconds(lesson, students.load(folder), settings, device)
        work.mkdir(parents=True, exist_ok=True)
        write_json(path, max(1, int(60 * minutes / took)))
    return int(read_json(path))


def _step_seconds(lesson: Lesson, model: Model, settings: TrainSettings, device: str) -> float:
    """Return the mean seconds of a step's gradient, on batches of all lengths."""
    schedule = Schedule(lesson.task.length(model, lesson.train), settings, 0)
    place = choose_device(device)
    dtype = choose_precision(settings.precision, place)
    model.module.to(place).train()
    spent = []
    for step in range(min(PROBES, max(2, schedule.steps_per_epoch))):
        begin = time.perf_counter()
        examples = lesson.train.take(schedule.batch(step % schedule.steps_per_epoch))
        with torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
            accumulate(lesson, model, examples, settings.micro_batch_size or settings.batch_size, torch.Tensor.backward)
        spent.append(time.perf_counter() - begin)
    return float(np.mean(spent[1:]))


def uncompressed(folder: Path, lesson_task: Any, key: str, writes: bool, device: str) -> Teacher:
    """Return a model as its own teacher: what it was before the first step.

    Args:
        folder: of the model.
        lesson_task: turns examples into its rows.
        key: identity of the model.
        writes: its answer is a text.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    from attar.teachers.classifier import ClassifierTeacher
    from attar.teachers.language_model import LanguageModelTeacher

    model = students.load(folder)
    model.module.to(choose_device(device))
    if writes:
        return LanguageModelTeacher(model, lesson_task, key)
    return ClassifierTeacher(model, lesson_task, key)
