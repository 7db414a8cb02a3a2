"""Load what stages work on: weights from their source, language models, the objective of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Objective, Task, Teacher
from attar.errors import AttarError
from attar.objectives.ramp import Ramp, Scheduled
from attar.objectives.ramp import Term as RampedTerm
from attar.objectives.weighted import WeightedSum
from attar.sources import reference, weights
from attar.store.files import remove
from attar.students.folder import kind_of
from attar.students.settings import ModelSettings
from attar.teachers.codecs.base import Codec
from attar.teachers.recorded import RecordedTeacher


def task(name: str) -> Task:
    """Return the task of a recipe."""
    found: Task = catalog.entry("task", name)()
    return found


def fetch_weights(settings: ModelSettings, base: Path, cache: Path) -> Path | None:
    """Return the local folder (or GGUF file) of a model's weights, checked; None for a model built from a size.

    Raises:
        AttarError: they cannot be had, are damaged, or are pickles.
    """
    if settings.model is None or settings.from_teacher or kind_of(settings) in ("timm", "torchvision"):
        return None
    found = reference.fetch(reference.parse(settings.model, base), settings.sha256, cache)
    weights.check_weights(found)
    return found


def unpacked(found: Path, folder: Path) -> Path:
    """Return weights as a folder: those of a GGUF file are unpacked into ``folder``, once."""
    if found.suffix != ".gguf":
        return found
    if not (folder / "config.json").is_file():
        remove(folder)
        weights.as_folder(found, folder)
    return folder


def objective_of(terms: Sequence[tuple[float | Ramp, str, Mapping[str, Any]]]) -> Objective:
    """Return the weighted sum of objectives named in a recipe.

    Args:
        terms: ``(weight, name, settings)`` of each; a weight may be a `Ramp`, a temperature the mapping of one.

    Example:
        >>> sorted(objective_of([(1.0, "forward_kl", {})]).needs)
        ['logits']
    """
    parts = []
    for weight, name, settings in terms:
        kind = catalog.entry("objective", name)
        ramp = Ramp(**settings["temperature"]) if isinstance(settings.get("temperature"), Mapping) else None
        fixed = settings if ramp is None else {**settings, "temperature": ramp.start}
        parts.append(RampedTerm(weight, kind(kind.Settings(**fixed)), ramp))
    if any(isinstance(part.weight, Ramp) or part.temperature is not None for part in parts):
        return Scheduled(parts)
    return WeightedSum([part.at(0.0) for part in parts])


def codec_of(name: str, settings: Mapping[str, Any]) -> Codec:
    """Return the codec of a record.

    Example:
        >>> codec_of("topk", {"k": 8}).settings.k
        8
    """
    kind = catalog.entry("codec", name)
    codec: Codec = kind(kind.Settings(**settings))
    return codec


def with_targets(examples: Examples, teacher: Teacher | None) -> Examples:
    """Return the examples with a hard target each: gold where known, else the teacher's choice.

    Raises:
        AttarError: a gold label is missing and there is no teacher to ask.
    """
    unknown = examples.labels == UNKNOWN
    if examples.targets is not None or not unknown.any():
        return examples
    if teacher is None:
        raise AttarError(
            f"{int(unknown.sum())} examples have no gold label, and no teacher was recorded to label them."
        )
    said = (
        teacher.hard(examples) if isinstance(teacher, RecordedTeacher) else teacher.answer(examples).dense().argmax(-1)
    )
    chosen = said.numpy()
    return replace(examples, labels=np.where(unknown, chosen, examples.labels))
