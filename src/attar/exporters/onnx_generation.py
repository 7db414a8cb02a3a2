"""Write a causal language model as one ONNX graph that reads prompts and single tokens alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.core.rows import score_shape
from attar.errors import AttarError
from attar.exporters.onnx import quiet_exporter, strip_origins
from attar.exporters.onnx_fusions import fuse
from attar.exporters.onnx_weights import quantize, write_graph
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

ATTENTION = "attar_onnx"
"""Name under which `transformers` finds the attention that a graph is traced with."""
LAYERS = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers, as configurations name them, whose attention onnxruntime's operator computes."""
FOREIGN = ("s_aux", "position_bias", "attention_bias")
"""Arguments of attention functions that onnxruntime's operator is not given here."""


class OnnxGenerationExporter:
    """Export with `torch.onnx`'s dynamo exporter; each layer's attention becomes onnxruntime's own operator.

    ``GroupQueryAttention`` keeps keys and values, reads grouped heads without repeating them, and writes into the
    buffer that it reads when both are the same memory. Which model it is does not matter as long as its attention is
    called through `transformers`' attention interface. The graph runs in onnxruntime alone.

    Inputs: ``input_ids (batch, time)``; ``lengths (batch,)``, how many tokens of each row are read when this call is
    done; ``places (batch, rows)``, which of this call's tokens' scores are wanted; and for each layer ``past.i.key``
    and ``past.i.value (batch, key heads, past, width)``. Outputs: ``logits (batch, rows, vocab)``, and the grown
    ``present.i.key`` and ``present.i.value``. Rows of unlike length are padded on the right and told apart by
    ``lengths`` alone. Several tokens after a past are for a batch of one; single tokens for any.

    The weights of a quantized model (``facts["quantized"]``) are stored as their codes: see
    `attar.exporters.onnx_weights`.

    Args:
        accuracy_level: how exactly products with quantized weights are computed: 4 rounds the inputs to int8 and is
            by far the fastest, 1 computes in float32.
    """

    name = "onnx_generation"

    def __init__(self, accuracy_level: int = 4) -> None:
        self.accuracy_level = accuracy_level

    def export(self, model: Model, path: Path) -> None:
        """Write the graph to ``path``, whole or not at all.

        Args:
            model: a causal language model.
            path: the file to write.

        Raises:
            AttarError: the network cannot be exported, or the file would be larger than an ONNX file can be.
        """
        write_graph(self.graph(model), path)

    def graph(self, model: Model) -> Any:
        """Return the graph as a model of `onnx_ir`.

        Raises:
            AttarError: the network cannot be exported, or its weights are no longer on the grid they were put on.
        """
        if model.kind != "causal":
            raise AttarError(f"A graph that writes is made of a causal language model, not of the kind '{model.kind}'.")
        network: Any = model.module.eval().float().cpu()
        _check(network.config)
        trace = _Trace()
        with _attention(network, trace), quiet_exporter(), torch.no_grad():
            network.base_model(input_ids=torch.ones((1, 2), dtype=torch.long), use_cache=False)
            _check_heads(trace.heads, network.config)
            program = _export(network, trace)
        fuse(program.model)
        strip_origins(program.model)
        if "quantized" in model.facts:
            quantize(program.model, model, self.accuracy_level)
        return program.model


def _check(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= LAYERS:
        raise AttarError(
            f"A {config.model_type} has layers of the kinds {sorted(kinds - LAYERS)}, which cannot be exported to ONNX "
            "for writing. Export models with plain or sliding attention, or set export: hf."
        )


def _check_heads(heads: Sequence[tuple[int, int]], config: Any) -> None:
    if not heads:
        raise AttarError(
            f"A {config.model_type} does not call its attention through transformers' interface, so it cannot be "
            "exported to ONNX for writing. Set export: hf."
        )
    width = next((width for _, width in heads if width % 8), None)
    if width is not None:
        raise AttarError(
            f"The attention heads of this {config.model_type} are {width} wide; for ONNX their width must be a "
            "multiple of 8. Set export: hf."
        )


class _Trace:
    """Stand for every layer's attention while a network is traced: first note the heads, then write operators."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, int]] = []
        self.past: Sequence[torch.Tensor] = ()
        self.present: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None
        self.total: torch.Tensor | None = None

    def begin(self, lengths: torch.Tensor, past: Sequence[torch.Tensor]) -> None:
        """Take the inputs of one call."""
        self.past, self.present = past, []
        self.last = (lengths - 1).to(torch.int32)
        self.total = lengths.max().to(torch.int32)

    def attend(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **given: Any
    ) -> tuple[Any, None]:
        """Return what a layer's heads read ``(batch, time, heads, width)``."""
        batch, heads, time, width = query.shape
        if not self.past:
            _check_call(module, key, value, mask, given)
            self.heads.append((key.shape[1], width))
            return query.transpose(1, 2), None
        old = self.past[len(self.present) : len(self.present) + 2]
        kept = (batch, key.shape[1], old[0].shape[2] + time, width)
        named = {"num_heads": heads, "kv_num_heads": key.shape[1], "scale": float(scaling or width**-0.5)}
        if given.get("sliding_window"):
            named["local_window_size"] = int(given["sliding_window"])
        if given.get("softcap"):
            named["softcap"] = float(given["softcap"])
        flat = [states.transpose(1, 2).reshape(batch, time, -1) for states in (query, key, value)]
        out, *present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [*flat, *old, self.last, self.total],
            named,
            dtypes=[query.dtype] * 3,
            shapes=[(batch, time, heads * width), kept, kept],
            version=1,
        )
        self.present += present
        return out.reshape(batch, time, heads, width), None


def _check_call(module: Any, key: Any, value: Any, mask: Any, given: dict[str, Any]) -> None:
    foreign = [name for name in FOREIGN if given.get(name) is not None]
    if mask is not None or foreign or key.shape != value.shape:
        what = "a mask of its own" if mask is not None else (foreign or ["keys and values of unlike width"])[0]
        raise AttarError(
            f"{type(module).__name__} attends with {what}, which cannot be exported to ONNX for writing. "
            "Set export: hf."
        )


@contextmanager
def _attention(network: Any, trace: _Trace) -> Iterator[None]:
    """Let a network attend through ``trace``, and as it did before afterwards."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, trace.attend)
    before = network.config._attn_implementation
    network.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _export(network: Any, trace: _Trace) -> Any:
    """Trace one call: two rows of three tokens after a past of five."""
    layers = len(trace.heads)
    past = [torch.zeros((2, heads, 5, width)) for heads, width in trace.heads for _ in ("key", "value")]
    names = [f"past.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    batch, time, old, rows = (torch.export.Dim(name) for name in ("batch", "time", "past", "rows"))
    free = ({0: batch, 1: time}, {0: batch}, {0: batch, 1: rows}, [{0: batch, 2: old}] * len(past))
    inputs = (torch.ones((2, 3), dtype=torch.long), torch.tensor([8, 8]), torch.tensor([[0, 2], [0, 2]]), past)
    try:
        program = torch.onnx.export(
            _step(network, trace),
            inputs,
            dynamo=True,
            dynamic_shapes=free,
            input_names=["input_ids", "lengths", "places", *names],
            output_names=["logits", *(name.replace("past", "present") for name in names)],
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise AttarError(f"The {network.config.model_type} cannot be exported to ONNX: {reason}") from error
    if program is None:
        raise AttarError(f"The {network.config.model_type} cannot be exported to ONNX: the exporter gave no graph.")
    return program


def _step(network: Any, trace: _Trace) -> torch.nn.Module:
    scale, cap = score_shape(network.config)

    class Step(torch.nn.Module):
        """Read some tokens after those that were read before."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, input_ids: torch.Tensor, lengths: torch.Tensor, places: torch.Tensor, past: list[torch.Tensor]
        ) -> tuple[torch.Tensor, ...]:
            """Return the scores of the tokens asked for, and all keys and values."""
            batch, time = input_ids.shape
            trace.begin(lengths, past)
            # a row padded on the right is shorter than the time: it begins at 0 as the others do
            positions = (lengths - time).clamp(min=0)[:, None] + torch.arange(time)
            states = network.base_model(input_ids=input_ids, position_ids=positions, use_cache=False).last_hidden_state
            rows = states[torch.arange(batch)[:, None], places]  # before the head: a prompt needs one row's scores
            scores = network.get_output_embeddings()(rows.flatten(0, 1)) * scale
            if cap is not None:
                scores = cap * torch.tanh(scores / cap)
            return (scores.unflatten(0, places.shape), *trace.present)

    return Step()
