"""Export the compressed student as a bundle: graph, tokenizer, card, checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.examples import DataSet
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.core.reading import frame_of
from attar.errors import AttarError
from attar.exporters.bundle import Bundle, write_card
from attar.exporters.onnx import OnnxExporter
from attar.exporters.onnx_weights import quantize_file
from attar.stages import assets
from attar.stages.calibrate import graph_calibration
from attar.stages.compress import Steps, steps_at
from attar.store.files import read_json, remove, sha256_file
from attar.students import folder as students
from attar.tasks.text_classification import text_ids
from attar.teachers.classifier import ClassifierTeacher

PROBE = 16
"""Examples that the graph and the model are compared on."""
PARITY = 1e-3
"""Largest relative difference of logits between the float32 graph and the model."""


def export(
    source: Path, task: str, steps: Steps, data: DataSet, places: tuple[Path, Path], graphs: Path | None = None
) -> dict[str, Any]:
    """Write the bundle.

    Args:
        source: folder of the compressed model.
        task: the recipe's task.
        steps: the recipe's compression; those that work on the exported graph are applied here, in order.
        data: its training split is what static quantization calibrates on.
        places: work folder and content folder.
        graphs: folder where the graph of each network is kept before compression, for models that differ in the text
            of their prompt alone: exporting a language model takes minutes. None keeps nothing.

    Returns:
        Facts for the artifact's card: what each step did, the precision.
    """
    work, content = places
    model = students.load(source)
    remove(content)
    content.mkdir(parents=True)
    graph = work / "float32.onnx"
    _write_graph(model, graph, None if graphs is None else graphs / f"{_network_id(source)}.onnx")
    checks = _parity(model, task, data, graph)
    plans, precision = [], "float32"
    if "quantized" in model.facts:
        quantize_file(graph, graph, model)
        precision = precision_of(model)
    for name, settings in steps_at("export", steps):
        kind = catalog.entry("compressor", name)
        smaller = work / f"{name}.onnx"
        calibration = graph_calibration(partial(_bundled, model, task, data.labels), graph, data)
        plans.append(asdict(kind(kind.Settings(**settings)).apply(graph, smaller, calibration)))
        graph.unlink()
        graph, precision = smaller, kind.precision
    shutil.move(graph, content / "model.onnx")
    _finish_bundle(content, model, task, data.labels, precision)
    return {"plans": plans, "precision": precision, "preflight": checks}


def precision_of(model: Model) -> str:
    """Return what a model's weights are stored as: ``float32``, ``int4``, or ``int4 and int8``."""
    bits = sorted({int(facts["bits"]) for facts in model.facts.get("quantized", {}).values()})
    return " and ".join(f"int{width}" for width in bits) or "float32"


def _write_graph(model: Model, graph: Path, kept: Path | None) -> None:
    if kept is None or not kept.is_file():
        OnnxExporter().export(model, graph)
        if kept is None:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(".tmp")
        shutil.copyfile(graph, beside)
        beside.replace(kept)
    else:
        shutil.copyfile(kept, graph)


def _network_id(source: Path) -> str:
    """Return an id that models share whose graphs are the same: of weights, kind and label words."""
    card = read_json(source / students.CARD)
    prompt = card["facts"].get("prompt", {})
    said = [card["kind"], card["facts"].get("soft"), prompt.get("words"), prompt.get("chat")]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode("utf-8"))
    cards = (students.CARD, "artifact.json")
    for path in sorted(path for path in source.rglob("*") if path.is_file() and path.name not in cards):
        digest.update(f"{path.relative_to(source).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def export_folder(source: Path, task: str, content: Path) -> dict[str, Any]:
    """Write a bundle of a model that writes: a folder that plain `transformers` reads, with the bundle's card.

    Args:
        source: folder of the compressed model.
        task: the recipe's task.
        content: folder to write.

    Returns:
        Facts for the artifact's card: the precision; nothing is compressed here.
    """
    remove(content)
    shutil.copytree(source, content, ignore=shutil.ignore_patterns("artifact.json"))
    facts = students.load(source).facts
    card = {"task": task, "labels": [], "model": "model.safetensors", "precision": "float32"}
    asked = {name: facts[name] for name in ("prompt", "max_length", "max_new_tokens")}
    write_card(content, {**card, "input": {"kind": "prompt", **asked}})
    return {"plans": [], "precision": "float32", "preflight": []}


def _parity(model: Model, task: str, data: DataSet, graph: Path) -> list[dict[str, Any]]:
    """Compare graph and tokenizer, before anything is quantized, with the model they were made from.

    Raises:
        AttarError: they differ by more than float32 arithmetic in another order can explain.
    """
    examples = data.validation.take(np.arange(min(PROBE, len(data.validation))))
    checks = []
    with _bundled(model, task, data.labels, graph) as bundle:
        if model.processor is not None:
            texts = [str(text) for text in examples.inputs]
            same = text_ids(model, texts) == [bundle.tokens(text) for text in texts]
            checks.append(
                {"name": "the bundle's tokenizer equals the student's", "passed": same, "value": f"{len(texts)} texts"}
            )
        exported = bundle.scores(examples.inputs)
    said = ClassifierTeacher(model, assets.task(task), "").answer(examples).dense().numpy()
    worst = float(np.abs(exported - said).max() / max(1.0, float(np.abs(said).max())))
    checks.append(
        {
            "name": "the float32 graph equals the student",
            "passed": worst < PARITY,
            "value": f"relative difference {worst:.1e}",
        }
    )
    failed = [f"{check['name']} ({check['value']})" for check in checks if not check["passed"]]
    if failed:
        raise AttarError(f"The export does not answer as the model does: {'; '.join(failed)}. Nothing was written.")
    return checks


@contextmanager
def _bundled(model: Model, task: str, labels: Sequence[str], graph: Path) -> Iterator[Bundle]:
    """Give a bundle of a graph for a block, to answer as what is served will."""
    with tempfile.TemporaryDirectory(dir=graph.parent) as temporary:
        folder = Path(temporary)
        shutil.copyfile(graph, folder / "model.onnx")
        _finish_bundle(folder, model, task, labels, "float32")
        yield Bundle(folder, threads=1)


def _finish_bundle(
    folder: Path, model: Model, task: str, labels: Sequence[str], precision: str, name: str = "model.onnx"
) -> None:
    """Write the tokenizer and the card beside a graph."""
    if model.processor is not None:
        model.processor.backend_tokenizer.save(str(folder / "tokenizer.json"))
    card = {"task": task, "labels": list(labels), "model": name, "precision": precision}
    write_card(folder, {**card, "input": _input(model)})


def _input(model: Model) -> Mapping[str, Any]:
    if model.processor is not None:
        return {"kind": "text", "max_length": model.facts["max_length"], **_prompt(model)}
    return {"kind": "image", **{name: model.facts[name] for name in ("shape", "mean", "std")}}


def _prompt(model: Model) -> dict[str, Any]:
    """Return a text model's prompt as a bundle needs it: plain strings, calibration, how many virtual tokens."""
    trained = {"virtual_tokens": model.facts["soft"]["virtual_tokens"]} if model.kind == "prompted" else {}
    if "prompt" not in model.facts:
        return trained
    prompt = TextPrompt.from_json(model.facts["prompt"])
    frame = frame_of(model.processor, prompt, model.facts["max_length"])
    return {**frame.to_json(), "calibration": model.facts["prompt"]["calibration"], **trained}
