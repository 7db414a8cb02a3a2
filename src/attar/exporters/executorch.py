"""Write a classifier as a program of ExecuTorch, for phones and small devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attar.core.exporting import Chooses
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.bundle import Bundle
from attar.exporters.executorch_session import executorch
from attar.exporters.onnx import logits_only, quiet_exporter
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FILE = "model.pte"
SHORTEST = 2
"""Tokens of the shortest text: its marks of begin and end. Of one token, torch's export makes a constant."""
KINDS = ("transformers", "net", "timm", "torchvision")


class ExecuTorchExporter:
    """Export with ``torch.export``, in float32, for the kernels of XNNPACK; one example a call, of any length."""

    name = "executorch"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "image-classification"})
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def export(self, model: Model, folder: Path, precision: str = "float32") -> str:
        """Write ``model.pte`` and return its name.

        Args:
            model: a classifier; texts give ``input_ids`` and ``attention_mask (1, time)``, images ``pixel_values
                (1, channels, height, width)``; the output is ``logits (1, labels)``.
            folder: where.
            precision: of the weights.

        Raises:
            AttarError: ExecuTorch is not installed, or the network cannot be exported.
        """
        if model.kind not in KINDS:
            raise AttarError(f"executorch is for students of {', '.join(KINDS)}, and this one is '{model.kind}'.")
        lower = executorch("exir").to_edge_transform_and_lower
        kernels = executorch("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
        inputs, shapes = _inputs(model)
        try:
            with quiet_exporter(), torch.no_grad():
                traced = torch.export.export(logits_only(model.module), inputs, dynamic_shapes=shapes)
                program = lower(traced, partitioner=[kernels()]).to_executorch()
        except Exception as error:  # torch.export and ExecuTorch have no common class of errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise AttarError(f"The {model.kind} model cannot be exported to ExecuTorch: {reason}") from error
        with (folder / FILE).open("wb") as handle:
            program.write_to_file(handle)
        return FILE

    def reload(self, folder: Path, threads: int = 0) -> Chooses:
        """Return what answers from the program alone."""
        return Bundle(folder, threads)


def _inputs(model: Model) -> tuple[tuple[torch.Tensor, ...], Any]:
    model.module.eval().float().cpu()
    if model.processor is None:
        return (torch.zeros((1, *model.facts["shape"])),), None
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    time = {1: torch.export.Dim("time", min=SHORTEST, max=int(model.facts["max_length"]))}
    ids = torch.ones((1, 8), dtype=torch.long)
    return (ids, torch.ones_like(ids)), (time, time)
