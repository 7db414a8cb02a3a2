"""Convert a graph for OpenVINO and run it; as a program, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import AttarError
from attar.optional import require


def openvino() -> Any:
    """Return the library.

    Raises:
        AttarError: it is not installed.
    """
    return require("openvino", "openvino", "OpenVINO's format")


class Session:
    """Run a graph as an onnxruntime session would, in float32.

    Args:
        path: the ``.xml`` file; its weights lie beside.
        threads: threads of the runtime; 0 leaves the choice to it.

    Raises:
        AttarError: OpenVINO is not installed, or cannot load the file.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        library = openvino()
        core = library.Core()
        # without the hint, processors with bfloat16 compute in it by themselves, and answers change
        wanted: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            wanted["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", wanted)
        except RuntimeError as error:
            raise AttarError(f"{path} cannot be loaded by OpenVINO: {str(error).splitlines()[0]}") from error

    def run(self, _: None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for one feed, name -> array."""
        return [np.array(value) for value in self._compiled(dict(feed)).values()]


def convert(graph: Path, target: Path, precision: str) -> None:
    """Convert an ONNX graph and run it once, on zeros.

    Args:
        graph: the ONNX file.
        target: the ``.xml`` file to write.
        precision: ``float32`` or ``float16``.
    """
    library = openvino()
    model = library.convert_model(str(graph))
    library.save_model(model, str(target), compress_to_fp16=precision == "float16")
    feed = {}
    for value in library.Core().read_model(str(target)).inputs:
        shape = [1 if size.is_dynamic else size.get_length() for size in value.partial_shape]
        feed[value.any_name] = np.ones(shape, value.element_type.to_dtype())
    Session(target, 1).run(None, feed)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
