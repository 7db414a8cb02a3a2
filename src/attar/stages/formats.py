"""Export a finished model in a further format, and keep it only if the files answer as the model does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.examples import UNKNOWN, DataSet, Examples
from attar.core.exporting import Chooses, Exporter, Writes
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.bundle import write_card
from attar.log import say
from attar.meters.text import rouge_l
from attar.stages.export import _finish_bundle
from attar.stages.export_writer import _finish
from attar.stages.hf import answering
from attar.store.files import disk_errors, folder_bytes, remove, sync_folder, write_json
from attar.students import folder as students

REPORT = "export.json"
PROBE = 16
"""Validation examples that logits are compared on."""
WRITTEN = 4
"""Validation examples that are written for."""
SHORT = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Tolerance:
    """Say how far exported files may be from the model.

    Args:
        logits: largest difference of logits, relative to the largest logit.
        metric: difference of accuracy, or of the mean loss of a target's token in nats: of perplexity, as a share.
    """

    logits: float
    metric: float


FLOATS = {"float32": Tolerance(1e-3, 0.002), "float16": Tolerance(0.02, 0.01), "bfloat16": Tolerance(0.1, 0.02)}
ROUNDED = {"q8_0": Tolerance(0.25, 0.05), "q4_0": Tolerance(1.0, 0.5), "q4_1": Tolerance(1.0, 0.5)}
QUANTIZED = Tolerance(0.25, 0.05)
"""Of a model whose weights were quantized before: runtimes round its activations to 8 bits."""


@dataclass(frozen=True)
class Wanted:
    """Say which export is wanted.

    Args:
        to: the format's name.
        precision: of its weights; None for the format's first.
        tolerance: of the metric; None for what is usual in the precision.
        examples: test examples that the metric is computed on, from the first.
        threads: threads of the runtime; 0 leaves the choice to it.
    """

    to: str
    precision: str | None = None
    tolerance: float | None = None
    examples: int = 200
    threads: int = 0


def export_format(
    source: Path, task: str, data: DataSet, wanted: Wanted, target: Path, measured: float | None = None
) -> dict[str, Any]:
    """Write a model in a format, answer from the files alone, compare, and put them in their place if they agree.

    Args:
        source: folder of the finished model.
        task: the recipe's task.
        data: logits are compared on its validation split, the metric on its test split.
        wanted: the format.
        target: folder to write; what is there stays until the new export is whole and agrees.
        measured: accuracy or perplexity of the model on the whole test split, as the run measured it; it is compared
            where the whole split is read here too.

    Returns:
        What ``export.json`` holds: format, precision, bytes, both metrics, differences and tolerances.

    Raises:
        AttarError: the format does not fit the task or the model, the files answer otherwise, or the disk is full;
            then nothing new is left.
    """
    exporter, precision = _exporter(wanted, task)
    model = students.load(source)
    if target.exists() and not (target / REPORT).is_file():
        raise AttarError(f"{target} exists and is no export of attar. Choose another folder with --out, or remove it.")
    beside = target.with_name(f".{target.name}.tmp")
    try:
        with disk_errors(target):
            remove(beside)
            beside.mkdir(parents=True)
            say(f"writing {wanted.to} in {precision}")
            _write(exporter, model, task, data, precision, beside)
            written = folder_bytes(beside)
            say("reading it back and comparing")
            facts = compare(answering(model), exporter.reload(beside, wanted.threads), data, wanted.examples)
            found = {"schema": 1, "format": wanted.to, "precision": precision, "bytes": written, **facts}
            found |= _judged(found, model, wanted, precision, measured)
            write_json(beside / REPORT, found)
            _place(beside, target)
    except OSError as error:  # of a library's own, in its own words
        raise AttarError(f"{target} cannot be written: {error}.") from error
    finally:
        remove(beside)
    return found


def _exporter(wanted: Wanted, task: str) -> tuple[Exporter, str]:
    exporter: Exporter = catalog.entry("exporter", wanted.to)()
    if task not in exporter.tasks:
        raise AttarError(
            f"{wanted.to} is for {', '.join(sorted(exporter.tasks))}; this run is of {task}. Formats for it: "
            f"{', '.join(formats(task))}."
        )
    given = wanted.precision or exporter.precisions[0]
    precision = SHORT.get(given, given)
    if precision not in exporter.precisions:
        raise AttarError(
            f"The precision of {wanted.to} must be one of {', '.join(exporter.precisions)}, got {given!r}."
        )
    return exporter, precision


def formats(task: str) -> list[str]:
    """Return the names of the formats for a task.

    Example:
        >>> "gguf" in formats("text-generation"), "gguf" in formats("image-classification")
        (True, False)
    """
    return [name for name in sorted(catalog.table("exporter")) if task in catalog.entry("exporter", name).tasks]


def _write(exporter: Exporter, model: Model, task: str, data: DataSet, precision: str, folder: Path) -> None:
    """Write the model, and what must lie beside it to answer: tokenizer and card."""
    name = exporter.export(model, folder, precision)
    if exporter.name != "hf":
        if model.kind == "causal":
            _finish(folder, model, task, precision, name)
        else:
            _finish_bundle(folder, model, task, data.labels, precision, name)
    elif model.kind == "causal":
        asked = {key: model.facts[key] for key in ("prompt", "max_length", "max_new_tokens")}
        card = {"task": task, "labels": [], "model": name, "precision": precision}
        write_card(folder, {**card, "input": {"kind": "prompt", **asked}})


def _place(beside: Path, target: Path) -> None:
    """Put a whole folder in the place of the one before it, which is whole until then."""
    old = target.with_name(f".{target.name}.old")
    remove(old)
    if target.exists():
        os.replace(target, old)
    os.replace(beside, target)
    sync_folder(target.parent)
    remove(old)


def compare(model: Chooses | Writes, files: Chooses | Writes, data: DataSet, examples: int) -> dict[str, Any]:
    """Return how far exported files are from their model.

    Args:
        model: the model.
        files: what answers from the files.
        data: the task's data.
        examples: test examples to compute the metric on.

    Returns:
        ``metric``: its name; ``model`` and ``files``: its two values; ``n``: examples it stands on; ``whole_test``;
        ``logits``: largest difference, relative to the largest logit of the model.
    """
    probe = data.validation.take(np.arange(min(PROBE, len(data.validation))))
    test = data.test.take(np.arange(min(examples, len(data.test))))
    if isinstance(model, Chooses) and isinstance(files, Chooses):
        found = _choices(model, files, probe, test)
    elif isinstance(model, Writes) and isinstance(files, Writes):
        found = _texts(model, files, probe, test)
    else:
        raise ValueError("a model that chooses was exported as one that writes, or the other way round")
    return {**found, "whole_test": len(test) == len(data.test)}


def _choices(model: Chooses, files: Chooses, probe: Examples, test: Examples) -> dict[str, Any]:
    own, theirs = model.scores(probe.inputs), files.scores(probe.inputs)
    known = test.take(np.flatnonzero(test.labels != UNKNOWN))
    if not len(known):
        raise AttarError("No test example has a gold label, and accuracy is compared on them. Name data.label.")
    right = [float((one.scores(known.inputs).argmax(axis=1) == known.labels).mean()) for one in (model, files)]
    return {"metric": "accuracy", "model": right[0], "files": right[1], "n": len(known), "logits": _far(own, theirs)}


def _texts(model: Writes, files: Writes, probe: Examples, test: Examples) -> dict[str, Any]:
    pairs, tests = _pairs(probe), _pairs(test)
    if not pairs or not tests:
        raise AttarError("No validation or no test example has a target text, and perplexity is computed on them.")
    far = max(_far(model.logits(*pair), files.logits(*pair)) for pair in pairs)
    losses = [_loss(one, tests) for one in (model, files)]
    texts = [text for text, _ in pairs[:WRITTEN]]
    written = [one.write(texts) for one in (model, files)]
    alike = float(np.mean([rouge_l(one, other) for one, other in zip(*written, strict=True)]))
    own, theirs = (float(np.exp(loss)) for loss in losses)
    return {
        **{"metric": "perplexity", "model": own, "files": theirs, "n": len(tests), "logits": far},
        **{"written": len(texts), "written_alike": alike},
    }


def _pairs(examples: Examples) -> list[tuple[str, str]]:
    targets = examples.targets if examples.targets is not None else [""] * len(examples)
    return [(str(text), target) for text, target in zip(examples.inputs, targets, strict=True) if target]


def _loss(speaker: Writes, pairs: list[tuple[str, str]]) -> float:
    """Return the mean negative log-likelihood of a token of the targets, in nats."""
    total, count = 0.0, 0
    for text, target in pairs:
        scores, ids = speaker.logits(text, target).astype(np.float64), speaker.target_tokens(target)
        top = scores.max(axis=1)
        total += float(
            (np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - scores[np.arange(len(ids)), ids]).sum()
        )
        count += len(ids)
    return total / count


def _far(own: np.ndarray, theirs: np.ndarray) -> float:
    if own.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(theirs - own).max(initial=0.0) / max(1.0, float(np.abs(own).max(initial=0.0))))


def _judged(
    found: Mapping[str, Any], model: Model, wanted: Wanted, precision: str, measured: float | None
) -> dict[str, Any]:
    """Return difference, tolerances and what was measured.

    Raises:
        AttarError: a difference is beyond its tolerance.
    """
    usual = (FLOATS | ROUNDED)[precision]
    if model.facts.get("quantized"):
        usual = Tolerance(max(usual.logits, QUANTIZED.logits), max(usual.metric, QUANTIZED.metric))
    rule = Tolerance(usual.logits, usual.metric if wanted.tolerance is None else wanted.tolerance)
    values = {"model": found["model"]}
    if measured is not None and found["whole_test"]:
        values["measured"] = measured
    way = np.log if found["metric"] == "perplexity" else float
    gaps = {name: abs(float(way(found["files"]) - way(value))) for name, value in values.items()}
    gap = max(gaps.values())
    if not (found["logits"] <= rule.logits and gap <= rule.metric):
        raise AttarError(
            f"The {wanted.to} files do not answer as the model does: {found['metric']} {found['files']:.4f} against "
            f"{', '.join(f'{value:.4f} ({name})' for name, value in values.items())}, logits apart by "
            f"{found['logits']:.2g}; the rule is {rule.metric:g} and {rule.logits:g}. Nothing was kept. Choose a finer "
            "--precision, or allow more with --tolerance."
        )
    return {"measured": measured, "difference": gap, "tolerance": {"logits": rule.logits, "metric": rule.metric}}
