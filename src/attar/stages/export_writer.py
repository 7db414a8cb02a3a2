"""Export a model that writes as a bundle that onnxruntime alone lets write: graph, tokenizer, card, checksums."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar import catalog
from attar.core.compressing import GraphCalibration
from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model
from attar.core.reading import frame_of
from attar.errors import AttarError
from attar.exporters.bundle import write_card
from attar.exporters.onnx_generation import OnnxGenerationExporter
from attar.exporters.onnx_weights import set_accuracy, write_graph
from attar.exporters.writing_bundle import GRAPH, WritingBundle
from attar.optional import lazy
from attar.stages import assets
from attar.stages.compress import Steps, steps_at
from attar.stages.export import PARITY, PROBE, precision_of
from attar.store.files import disk_errors, remove
from attar.students import folder as students
from attar.tasks.text_generation import prompt_of, prompt_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

EXACT, FAST = 1, 4
"""How exactly products with quantized weights are computed: in float32, or with their inputs rounded to int8."""
NEAR = 0.25
"""Largest relative difference of logits, in the mean over tokens, that rounding inputs to int8 can explain."""


def export_writer(source: Path, task: str, steps: Steps, data: DataSet, places: tuple[Path, Path]) -> dict[str, Any]:
    """Write the bundle of a model that writes.

    The graph is compared with the model twice: with products in float32, which must agree to rounding, quantized
    weights or not, and write what the model would write; and as it is shipped, which must be near.

    Args:
        source: folder of the compressed model.
        task: the recipe's task.
        steps: the recipe's compression; those that work on the exported graph are applied here, in order.
        data: its validation split is what graph and model are compared on.
        places: work folder and content folder.

    Returns:
        Facts for the artifact's card: what each step did, the precision, the checks.

    Raises:
        AttarError: the model cannot be exported, the graph does not answer as it does, or the disk is full.
    """
    work, content = places
    model = students.load(source)
    remove(content)
    examples = data.validation.take(np.arange(min(PROBE, len(data.validation))))
    graph = work / "whole.onnx"
    traced = OnnxGenerationExporter(EXACT).graph(model)  # takes minutes: once for both
    write_graph(traced, graph)
    with _bundled(model, task, graph) as bundle:
        checks = _exact(bundle, model, task, examples)
    if "quantized" in model.facts:
        set_accuracy(traced, FAST)
        write_graph(traced, graph)
    del traced
    plans, precision = [], precision_of(model)
    for name, settings in steps_at("export", steps):
        kind = catalog.entry("compressor", name)
        smaller = work / f"{name}.onnx"
        plans.append(asdict(kind(kind.Settings(**settings)).apply(graph, smaller, GraphCalibration())))
        graph.unlink()
        graph, precision = smaller, kind.precision
    if precision != "float32":
        with _bundled(model, task, graph) as bundle:
            checks.append(_near(bundle, model, task, examples))
    _refuse(checks)
    content.mkdir(parents=True)
    with disk_errors(content):
        shutil.move(graph, content / GRAPH)
        _finish(content, model, task, precision)
    return {"plans": plans, "precision": precision, "preflight": checks}


def _exact(bundle: WritingBundle, model: Model, task: str, examples: Examples) -> list[dict[str, Any]]:
    texts = [str(text) for text in examples.inputs]
    same = [prompt_tokens(model, text) for text in texts] == [bundle.tokens(text) for text in texts]
    worst = float(np.abs(_difference(bundle, model, task, examples)).max(initial=0.0))
    chosen = [_likeliest(model, bundle.tokens(text), bundle.write_ids(text)) for text in texts]
    return [
        _check("the bundle's tokenizer equals the student's", same, f"{len(texts)} texts"),
        _check("the graph equals the student", worst < PARITY, f"relative difference {worst:.1e}"),
        _check("the graph writes what the student would", all(chosen), f"{sum(chosen)} of {len(texts)} texts"),
    ]


def _near(bundle: WritingBundle, model: Model, task: str, examples: Examples) -> dict[str, Any]:
    far = np.abs(_difference(bundle, model, task, examples))
    mean = float(far.max(axis=1).mean()) if len(far) else 0.0
    return _check("the shipped graph is near the student", mean < NEAR, f"mean relative difference {mean:.1e}")


def _check(name: str, passed: bool, value: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "value": value}


def _refuse(checks: Sequence[dict[str, Any]]) -> None:
    failed = [f"{check['name']} ({check['value']})" for check in checks if not check["passed"]]
    if failed:
        raise AttarError(f"The export does not answer as the model does: {'; '.join(failed)}. Nothing was written.")


def _difference(bundle: WritingBundle, model: Model, task: str, examples: Examples) -> np.ndarray:
    """Return how far the graph's logits of the targets are from the model's, relative to the largest."""
    reads = assets.task(task)
    with torch.inference_mode():
        said = reads.rows(model, reads.collate(model, examples)).dense().float().numpy()
    targets = examples.targets if examples.targets is not None else [""] * len(examples)
    pairs = [(str(text), target) for text, target in zip(examples.inputs, targets, strict=True) if target]
    if not pairs:
        return np.zeros((0, 1), np.float32)
    found = np.concatenate([bundle.logits(text, target) for text, target in pairs])
    return np.asarray((found - said) / max(1.0, float(np.abs(said).max())))


def _likeliest(model: Model, prompt: Sequence[int], written: Sequence[int]) -> bool:
    """Tell whether each written token is the likeliest to the model, or as likely as rounding can tell."""
    network: Any = model.module
    with torch.inference_mode():
        said = network(input_ids=torch.tensor([[*prompt, *written[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :]
    own = said[torch.arange(len(written)), torch.tensor(written)]
    return bool((said.amax(dim=1) - own).max() <= PARITY * said.abs().max())


@contextmanager
def _bundled(model: Model, task: str, graph: Path) -> Iterator[WritingBundle]:
    """Give a bundle of a graph for a block, to write as what is served will."""
    with tempfile.TemporaryDirectory(dir=graph.parent) as temporary:
        folder = Path(temporary)
        shutil.copyfile(graph, folder / GRAPH)
        _finish(folder, model, task, "float32")
        yield WritingBundle(folder, threads=1)


def _finish(folder: Path, model: Model, task: str, precision: str, name: str = GRAPH) -> None:
    """Write the tokenizer and the card beside a graph: the card last, so a bundle that has it is whole."""
    prompt = prompt_of(model)
    model.processor.backend_tokenizer.save(str(folder / "tokenizer.json"))
    asked = {
        **frame_of(model.processor, prompt, model.facts["max_length"]).to_json(),
        "joins": "" if prompt.chat else " ",
        "end": int(model.processor.eos_token_id),
        "max_new_tokens": model.facts["max_new_tokens"],
    }
    card = {"task": task, "labels": [], "model": name, "precision": precision}
    write_card(folder, {**card, "input": {"kind": "prompt", **asked}})
