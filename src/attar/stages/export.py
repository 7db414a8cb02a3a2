"""Export the compressed student as a bundle: graph, tokenizer, card, checksums."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.examples import DataSet
from attar.core.nouns import Model
from attar.exporters.bundle import write_card
from attar.stages.compress import Steps, steps_at
from attar.store.files import remove
from attar.students import folder as students
from attar.tasks.image_classification import normalize


def export(source: Path, task: str, steps: Steps, data: DataSet, places: tuple[Path, Path]) -> dict[str, Any]:
    """Write the bundle.

    Args:
        source: folder of the compressed model.
        task: the recipe's task.
        steps: the recipe's compression; those that work on the exported graph are applied here, in order.
        data: its training split is what static quantization calibrates on.
        places: work folder and content folder.

    Returns:
        Facts for the artifact's card: what each step did, the precision.
    """
    work, content = places
    model = students.load(source)
    remove(content)
    content.mkdir(parents=True)
    graph = work / "float32.onnx"
    catalog.entry("exporter", "onnx")().export(model, graph)
    plans, precision = [], "float32"
    for name, settings in steps_at("export", steps):
        kind = catalog.entry("compressor", name)
        smaller = work / f"{name}.onnx"
        calibration = _calibration(model, data) if kind.needs_calibration else None
        plans.append(asdict(kind(kind.Settings(**settings)).apply(graph, smaller, calibration)))
        graph.unlink()
        graph, precision = smaller, kind.precision
    shutil.move(graph, content / "model.onnx")
    if model.processor is not None:
        model.processor.backend_tokenizer.save(str(content / "tokenizer.json"))
    write_card(
        content,
        {
            "task": task,
            "labels": list(data.labels),
            "model": "model.onnx",
            "precision": precision,
            "input": _input(model),
        },
    )
    return {"plans": plans, "precision": precision}


def _calibration(model: Model, data: DataSet) -> np.ndarray:
    return normalize(np.asarray(data.train.inputs), model.facts["mean"], model.facts["std"])


def _input(model: Model) -> Mapping[str, Any]:
    if model.processor is not None:
        return {"kind": "text", "max_length": model.facts["max_length"]}
    return {"kind": "image", **{name: model.facts[name] for name in ("shape", "mean", "std")}}
