"""Write a classifier as an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class OnnxExporter:
    """Export with `torch.onnx`'s dynamo exporter; batch and time stay free.

    Transformers are exported with plain ("eager") attention: the fused kind brings guards against rows without any
    key into the graph, which cost time in every layer and which right-padded batches never need.
    """

    name = "onnx"

    def export(self, model: Model, path: Path) -> None:
        """Write the graph to ``path``, in float32, with the weights inside.

        Args:
            model: a classifier; texts give inputs ``input_ids`` and ``attention_mask (batch, time)``, images
                ``pixel_values (batch, channels, height, width)``; the output is ``logits (batch, labels)``.
            path: the file to write.

        Raises:
            AttarError: the network cannot be exported.
        """
        wrapped, inputs, shapes = _prepare(model)
        try:
            with _quiet(), torch.no_grad():
                program = torch.onnx.export(
                    wrapped,
                    tuple(inputs.values()),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    input_names=list(inputs),
                    output_names=["logits"],
                    verbose=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).splitlines()[0]
            raise AttarError(f"The {model.kind} model cannot be exported to ONNX: {reason}") from error
        if program is None:
            raise AttarError(f"The {model.kind} model cannot be exported to ONNX: the exporter gave no graph.")
        _strip(program.model)
        program.save(str(path))


def _strip(graph: Any) -> None:
    """Remove where each operation came from: stack traces, with this machine's paths, are most of a small graph."""
    for part in (graph.graph, *graph.functions.values()):
        for node in part.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()


def _prepare(model: Model) -> tuple[torch.nn.Module, dict[str, torch.Tensor], Any]:
    model.module.eval().float().cpu()
    batch = torch.export.Dim("batch")
    if model.processor is None:
        pixels = torch.zeros((2, *model.facts["shape"]))
        return _logits_only(model.module), {"pixel_values": pixels}, ({0: batch},)
    if hasattr(model.module, "set_attn_implementation"):
        model.module.set_attn_implementation("eager")  # type: ignore[operator]
    tokens = torch.ones((2, 8), dtype=torch.long)
    free = {0: batch, 1: torch.export.Dim("time", max=model.facts["max_length"])}
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return _logits_only(model.module), inputs, (free, free)


def _logits_only(module: torch.nn.Module) -> torch.nn.Module:
    class LogitsOnly(torch.nn.Module):
        """Call a network by position and return its logits alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, first: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            """Return the logits ``(batch, labels)``."""
            said = self.inner(first) if attention_mask is None else self.inner(first, attention_mask=attention_mask)
            return said if isinstance(said, torch.Tensor) else said.logits

    return LogitsOnly()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and warnings, which no user can act on."""
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
