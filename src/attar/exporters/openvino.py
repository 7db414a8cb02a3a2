"""Write a classifier as OpenVINO's intermediate representation, and run it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from attar.core.exporting import Chooses
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.bundle import Bundle
from attar.exporters.onnx import OnnxExporter
from attar.exporters.openvino_session import openvino

FILE = "model.xml"
MODULE = "attar.exporters.openvino_session"
"""What converts and runs a graph as a program."""
SECONDS = 600
"""A first compilation that takes longer is ended."""


class OpenVinoExporter:
    """Export by way of the ONNX graph; weights are stored in float32 or float16, and computed with in float32.

    Some processors have operations that OpenVINO chooses and that end the process. So a graph is converted and run
    once in a process of its own before it counts.
    """

    name = "openvino"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "image-classification"})
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")

    def export(self, model: Model, folder: Path, precision: str = "float32") -> str:
        """Write ``model.xml`` and ``model.bin`` and return the name of the first.

        Args:
            model: a classifier; see `OnnxExporter.export`.
            folder: where.
            precision: how the weights are stored.

        Raises:
            AttarError: OpenVINO is not installed, or cannot convert or run the graph.
        """
        openvino()
        with tempfile.TemporaryDirectory(dir=folder) as name:
            graph = Path(name) / "model.onnx"
            OnnxExporter().export(model, graph)
            _apart(graph, folder / FILE, precision)
        return FILE

    def reload(self, folder: Path, threads: int = 0) -> Chooses:
        """Return what answers from the two files alone."""
        return Bundle(folder, threads)


def _apart(graph: Path, target: Path, precision: str) -> None:
    """Convert and run a graph in a process of its own.

    Raises:
        AttarError: the process ended otherwise than well.
    """
    command = [sys.executable, "-m", MODULE, str(graph), str(target), precision]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise AttarError(f"OpenVINO did not compile the graph in {SECONDS} seconds.") from error
    if done.returncode == 0:
        return
    if done.returncode < 0:
        raise AttarError(
            f"OpenVINO ended the process that compiled the graph with signal {-done.returncode}: this processor or "
            "this release of OpenVINO cannot run it. Export to onnx, or try another release."
        )
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise AttarError(f"OpenVINO cannot convert the graph: {last}")
