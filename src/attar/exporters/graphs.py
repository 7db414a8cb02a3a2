"""Write a model as an ONNX graph that `attar predict` runs: of a classifier, or of a model that writes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from attar.core.exporting import Chooses, Writes
from attar.core.nouns import Model
from attar.exporters.bundle import Bundle, read_card
from attar.exporters.onnx import OnnxExporter

FILE = "model.onnx"


class OnnxFormat:
    """Export to ONNX; weights that were quantized stay in their codes where the model writes."""

    name = "onnx"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "image-classification", "text-generation"})
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def export(self, model: Model, folder: Path, precision: str = "float32") -> str:
        """Write ``model.onnx`` and return its name.

        Args:
            model: a classifier, or a causal language model.
            folder: where.
            precision: of the weights that are not quantized.

        Raises:
            AttarError: the network cannot be exported.
        """
        if model.kind == "causal":
            from attar.exporters.onnx_generation import OnnxGenerationExporter

            OnnxGenerationExporter().export(model, folder / FILE)
        else:
            OnnxExporter().export(model, folder / FILE)
        return FILE

    def reload(self, folder: Path, threads: int = 0) -> Chooses | Writes:
        """Return what answers from the graph with onnxruntime alone."""
        if read_card(folder)["input"]["kind"] == "prompt":
            from attar.exporters.writing_bundle import WritingBundle

            return WritingBundle(folder, threads)
        return Bundle(folder, threads)
