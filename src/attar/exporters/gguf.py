"""Write a language model as a GGUF file, which llama.cpp and what is built on it read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.gguf_blocks import TYPES, is_quantized, rounded, stored
from attar.exporters.gguf_tokenizer import Words, words_of
from attar.optional import lazy

if TYPE_CHECKING:
    from attar.exporters.gguf_runtime import GgufBundle

gguf: Any = lazy("gguf")

FILE = "model.gguf"
FAMILIES = {"llama": "LLAMA", "qwen2": "QWEN2"}
"""``model_type`` of `transformers` -> llama.cpp's architecture."""
TURNED = "llama"
"""The architecture whose queries and keys llama.cpp turns in neighboring pairs, where `transformers` turns halves."""


class GgufExporter:
    """Export Llama and Qwen2 models of any shape that `transformers` loads.

    A model that was quantized to GGUF's own grids (``q8_0``, ``q4_0``, ``q4_1``) is written in exactly its codes and
    scales. Vectors stay float32. Where 4-bit blocks are made here, the table of tokens gets 8 bits: it is the output
    layer too in most small models, where errors weigh most.
    """

    name = "gguf"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-generation"})
    precisions: ClassVar[tuple[str, ...]] = tuple(TYPES)

    def export(self, model: Model, folder: Path, precision: str = "float32") -> str:
        """Write ``model.gguf``: sizes, tokenizer, chat template, weights.

        Args:
            model: a causal language model with a byte-level BPE tokenizer.
            folder: where.
            precision: of the matrices; of a quantized model, of those that were not quantized.

        Returns:
            The file's name.

        Raises:
            AttarError: the architecture, the tokenizer or the grid is one that is not written; quantized weights would
                be rounded once more.
        """
        config: Any = model.module.config
        family = _family(config)
        if is_quantized(model) and precision in ("q4_0", "q4_1"):
            raise AttarError(
                f"The model is quantized already; its rest cannot be written in {precision}. Choose q8_0 or a float."
            )
        words = words_of(model.processor, int(config.vocab_size))
        writer = gguf.GGUFWriter(folder / FILE, family)
        try:
            _sizes(writer, config)
            _words(writer, words)
            _kind(writer, model, precision)
            for name, numbers, kind in tensors(model, precision):
                writer.add_tensor(name, numbers, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        return FILE

    def reload(self, folder: Path, threads: int = 0) -> GgufBundle:
        """Return what answers from the file alone."""
        from attar.exporters.gguf_runtime import GgufBundle

        return GgufBundle(folder, threads)


def _family(config: Any) -> str:
    """Return llama.cpp's name of an architecture that is written."""
    family = str(config.model_type)
    if family not in FAMILIES:
        raise AttarError(
            f"GGUF is written for the architectures {', '.join(FAMILIES)}, and this model is {family}. Export to hf."
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise AttarError(f"GGUF is written with plain rotary positions; this model's are {rope['rope_type']}.")
    if config.hidden_act != "silu":
        raise AttarError(f"llama.cpp computes {family} with silu; this model's activation is {config.hidden_act}.")
    if getattr(config, "use_sliding_window", False):
        raise AttarError("GGUF is written for full attention; this model looks through a sliding window.")
    return family


def head_size(config: Any) -> int:
    """Return the width of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _sizes(writer: Any, config: Any) -> None:
    width = head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_vocab_size(config.vocab_size)


def _words(writer: Any, words: Words) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    for name, place in words.ids.items():
        getattr(writer, f"add_{name}_token_id")(place)
    writer.add_add_bos_token(words.begins)
    if words.chat is not None:
        writer.add_chat_template(words.chat)


def _kind(writer: Any, model: Model, precision: str) -> None:
    used = {facts["format"] for facts in (model.facts.get("quantized") or {}).values()}
    main = used.pop() if len(used) == 1 else precision
    name = {"float32": "ALL_F32"}.get(main, f"MOSTLY_{TYPES[main]}")
    writer.add_file_type(int(getattr(gguf.LlamaFileType, name)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def tensors(model: Model, precision: str) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yield every tensor of a model under llama.cpp's name, with its numbers or blocks and their type.

    Args:
        model: the model.
        precision: of the matrices that are not quantized yet.

    Raises:
        AttarError: a parameter has no place in llama.cpp's architecture, or holds what is no number.
    """
    config: Any = model.module.config
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH[FAMILIES[config.model_type]], config.num_hidden_layers)
    head = model.module.get_output_embeddings()  # type: ignore[operator]
    table = model.module.get_input_embeddings().weight  # type: ignore[operator]
    for name, parameter in model.module.named_parameters(remove_duplicate=False):
        if parameter is table and head.weight is table and name.startswith("lm_head"):
            continue
        to = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if to is None:
            raise AttarError(f"llama.cpp's {config.model_type} has no place for the parameter '{name}'. Export to hf.")
        numbers = parameter.detach().float().cpu().numpy()
        if not np.isfinite(numbers).all():
            raise AttarError(f"{name} holds weights that are no numbers. Train again, with a smaller learning rate.")
        rows = _rows(name, len(numbers), config)
        kind = gguf.GGMLQuantizationType.F32
        if numbers.ndim < 2:
            yield to, numbers if rows is None else numbers[rows], kind
            continue
        ready = stored(name, numbers, model, rows)
        fine = (
            "q8_0" if precision in ("q4_0", "q4_1") and (parameter is table or parameter is head.weight) else precision
        )
        yield (to, *(ready or rounded(numbers if rows is None else numbers[rows], fine)))


def _rows(name: str, count: int, config: Any) -> np.ndarray | None:
    """Return the order in which llama.cpp wants the rows of queries and keys; None for other weights."""
    if config.model_type != TURNED or name.rpartition(".")[0].rpartition(".")[2] not in ("q_proj", "k_proj"):
        return None
    width = head_size(config)
    return np.arange(count).reshape(count // width, 2, width // 2).swapaxes(1, 2).reshape(-1)
