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
from attar.exporters.onnx_layout import keep_sums, name_weights
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
                ``pixel_values (batch, channels, height, width)``; the output is ``logits (batch, labels)``. A prompt
                of text and its calibration are no part of the graph; what a network puts before its inputs by itself
                (virtual tokens, keys and values) is.
            path: the file to write.

        Raises:
            AttarError: the network cannot be exported.
        """
        wrapped, inputs, shapes = _prepare(model)
        try:
            with quiet_exporter(), torch.no_grad():
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
        _fold(program.model)
        name_weights(program.model.graph, wrapped)
        keep_sums(program.model.graph)
        strip_origins(program.model)
        program.save(str(path))


def _fold(graph: Any) -> None:
    """Keep of a table the rows alone that are always the ones looked up, such as the label words' rows of a head."""
    import numpy as np
    import onnx_ir

    for node in [node for node in graph.graph if node.op_type == "Gather"]:
        if any(value is None or value.const_value is None for value in node.inputs):
            continue
        table, places = (value.const_value.numpy() for value in node.inputs)
        name = f"{node.outputs[0].name}_rows"
        taken = np.take(table, places, axis=node.attributes.get_int("axis", 0))
        rows = onnx_ir.tensor(taken, name=name)
        kept = onnx_ir.Value(
            name=name, shape=onnx_ir.Shape(taken.shape), type=onnx_ir.TensorType(rows.dtype), const_value=rows
        )
        graph.graph.register_initializer(kept)
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], kept)
        graph.graph.remove(node, safe=True)
    for name, value in list(graph.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.graph.initializers[name]


def strip_origins(graph: Any) -> None:
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
        return logits_only(model.module), {"pixel_values": pixels}, ({0: batch},)
    for part in model.module.modules():  # a prompt's network holds the model that has attention
        if hasattr(part, "set_attn_implementation"):
            part.set_attn_implementation("eager")  # type: ignore[operator]
    tokens = torch.ones((2, 8), dtype=torch.long)
    longest = None if "prompt" in model.facts else model.facts["max_length"]
    free = {0: batch, 1: torch.export.Dim("time", max=longest)}
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return logits_only(model.module), inputs, (free, free)


def logits_only(module: torch.nn.Module) -> torch.nn.Module:
    """Return a network that takes its inputs by position and gives its logits alone.

    Args:
        module: a classifier of texts or images.
    """

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
def quiet_exporter() -> Iterator[None]:
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
