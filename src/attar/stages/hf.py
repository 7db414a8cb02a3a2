"""Write a model as a folder of `transformers`, and answer with torch: from such a folder, or from a model at hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.exporting import Chooses, Writes
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy
from attar.stages import assets
from attar.students import folder as students
from attar.tasks.text_generation import completion_tokens
from attar.tasks.writing import write
from attar.teachers.classifier import ClassifierTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

KINDS = ("transformers", "causal", "label_words")
"""Kinds of students whose folder plain `transformers` loads."""
FILE = "model.safetensors"


class HfFormat:
    """Export to a folder that ``from_pretrained`` reads: safetensors, configuration, tokenizer."""

    name = "hf"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "text-generation"})
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")

    def export(self, model: Model, folder: Path, precision: str = "float32") -> str:
        """Write the folder and return the name of its weights.

        Args:
            model: of a kind that `transformers` loads by itself.
            folder: where.
            precision: of the weights.

        Raises:
            AttarError: plain `transformers` has no such models.
        """
        if model.kind not in KINDS:
            raise AttarError(
                f"hf is for students of {', '.join(KINDS)}, and this one is '{model.kind}'. Export to onnx."
            )
        if precision == "float32":
            students.save(model, folder)
        else:
            lower = copy.copy(model)
            lower.module = copy.deepcopy(model.module).to(getattr(torch, precision))
            students.save(lower, folder)
        return FILE

    def reload(self, folder: Path, threads: int = 0) -> Chooses | Writes:
        """Return what answers from the folder, computing in float32."""
        if threads:
            torch.set_num_threads(threads)
        return answering(students.load(folder))


def answering(model: Model) -> Chooses | Writes:
    """Return what answers with a model, by its kind."""
    return TorchWriter(model) if model.kind == "causal" else TorchChooser(model)


class TorchChooser:
    """Choose labels with a model at hand."""

    def __init__(self, model: Model) -> None:
        task = "image-classification" if model.processor is None else "text-classification"
        self._speaker = ClassifierTeacher(model, assets.task(task), "")

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``."""
        return np.asarray(self._speaker.answer(_examples(inputs)).dense().float().numpy())


class TorchWriter:
    """Write with a model at hand."""

    def __init__(self, model: Model) -> None:
        self._model, self._task = model, assets.task("text-generation")
        model.module.eval()

    def write(self, texts: Sequence[str]) -> list[str]:
        """Return what the model writes for each text, greedily."""
        return [written[0] for written in write(self._model, texts)]

    def target_tokens(self, target: str) -> list[int]:
        """Return the token ids of a target and its end."""
        return completion_tokens(self._model, target)

    def logits(self, text: str, target: str) -> np.ndarray:
        """Return the scores before each token of a target and its end ``(tokens, vocab)``."""
        one = _examples([text]).with_targets([target])
        with torch.inference_mode():
            rows = self._task.rows(self._model, self._task.collate(self._model, one))
            return np.asarray(rows.dense().float().numpy())


def _examples(inputs: Any) -> Examples:
    count = len(inputs)
    held = np.asarray(inputs) if isinstance(inputs, np.ndarray) else list(inputs)
    return Examples(np.arange(count), held, np.full(count, UNKNOWN))
