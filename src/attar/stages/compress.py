"""Compress a trained student: the steps that work on the model, before export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar import catalog
from attar.core.examples import DataSet
from attar.store.files import remove
from attar.students import folder as students

Steps = Sequence[tuple[str, Mapping[str, Any]]]


def steps_at(place: str, steps: Steps) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the steps that work at ``"model"`` or ``"export"``, in their order."""
    return [(name, settings) for name, settings in steps if catalog.entry("compressor", name).at == place]


def compress(source: Path, steps: Steps, data: DataSet, content: Path) -> dict[str, Any]:
    """Apply the steps that work on the model and write the smaller model.

    Args:
        source: folder of the trained student.
        steps: ``(name, settings)`` in order; those that work on the exported graph are passed over.
        data: steps calibrate on its inputs, the test split's left out.
        content: folder to write.

    Returns:
        Facts for the artifact's card: what each step did.
    """
    model = students.load(source)
    plans = []
    for name, settings in steps_at("model", steps):
        kind = catalog.entry("compressor", name)
        model, plan = kind(kind.Settings(**settings)).apply(model, _inputs(data))
        plans.append(asdict(plan))
    remove(content)
    students.save(model, content)
    return {"plans": plans}


def _inputs(data: DataSet) -> list[Any]:
    """Return all inputs that steps may look at: none of the test split."""
    parts = [data.train, data.validation, *([] if data.spare is None else [data.spare])]
    return [one for part in parts for one in part.inputs]
