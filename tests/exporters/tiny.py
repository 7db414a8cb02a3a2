"""Make tiny causal language models of several kinds, whole and quantized by hand."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from attar.core.nouns import Model

VOCAB = 96
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "max_position_embeddings": 128}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
COMMON: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.2, **SIZES, **HEADS, **ENDS}


def language_model(kind: str, seed: int = 0, **other: Any) -> Model:
    """Return a tiny random model without a tokenizer."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": VOCAB}
        made: Any = GPT2LMHeadModel(GPT2Config(**{**sizes, **ENDS, "initializer_range": 0.2, **other}))
    else:
        config, network = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
            "mistral": (MistralConfig, MistralForCausalLM),
            "gemma2": (Gemma2Config, Gemma2ForCausalLM),
        }[kind]
        made = network(config(**{**COMMON, **other}))
    for name, parameter in made.named_parameters():  # biases begin at 0, where a lost one would not be seen
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return Model(made.eval(), "causal", None, {})


def put_on_grid(
    model: Model, bits: dict[str, int], symmetric: bool = False, group: int = 16, half: bool = False
) -> Model:
    """Round parameters, named by a part of their name, to codes in groups, as a step that quantizes leaves them.

    Every other scale of a symmetric grid is below 0: its codes run the other way. ``half``: scales that float16 holds.
    """
    facts: dict[str, Any] = {}
    for name, parameter in model.module.named_parameters():
        wanted = next((width for part, width in bits.items() if part in name), None)
        if wanted is None or parameter.ndim != 2:
            continue
        weight = parameter.data.reshape(len(parameter), -1, group)
        levels = 2**wanted - 1
        if symmetric:
            zero = torch.full(weight.shape[:2], 2.0 ** (wanted - 1))
            scale = weight.abs().amax(-1) / (2 ** (wanted - 1) - 1)
            scale[:, ::2] *= -1
            scale = scale.half().float() if half else scale
            scale[scale == 0] = 1
        else:
            scale = (weight.amax(-1) - weight.amin(-1)) / levels
            scale[scale == 0] = 1  # the row of a padding token
            zero = (-weight.amin(-1) / scale).round().clamp(0, levels)
            model.tensors[f"{name}.zero"] = zero.to(torch.uint8)
        codes = (weight / scale[..., None] + zero[..., None]).round().clamp(0, levels)
        parameter.data = (scale[..., None] * (codes - zero[..., None])).reshape(parameter.shape)
        model.tensors[f"{name}.scale"] = scale
        facts[name] = {"bits": wanted, "group": group, "symmetric": symmetric, "format": "nbits"}
    model.facts["quantized"] = facts
    return model
