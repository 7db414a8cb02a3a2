"""Run a program of ExecuTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.errors import AttarError
from attar.optional import lazy, require

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def executorch(module: str) -> Any:
    """Return a module of the library.

    Raises:
        AttarError: it is not installed.
    """
    return require(f"executorch.{module}", "edge", "ExecuTorch's format")


class Session:
    """Run a program as an onnxruntime session would.

    On a device, a program needs no torch; in Python, ExecuTorch's own bindings read torch's tensors.

    Args:
        path: the ``.pte`` file.

    Raises:
        AttarError: ExecuTorch is not installed, or cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        runtime = executorch("runtime")
        try:
            self._program = runtime.Runtime.get().load_program(str(path))
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise AttarError(f"{path} cannot be loaded by ExecuTorch: {str(error).splitlines()[0]}") from error

    def run(self, _: None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for one feed, whose arrays are in the order of the program's inputs."""
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in feed.values()]
        return [np.array(output.numpy()) for output in self._method.execute(tensors)]
