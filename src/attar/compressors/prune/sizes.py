"""Know the families of transformers by their configurations, and where each says its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.errors import AttarError


@dataclass(frozen=True)
class Family:
    """Name the fields of a configuration that say a family's sizes.

    Args:
        name: of the family.
        mlp: channels inside the MLPs; of encoder and decoder, where they have one each.
        heads: attention heads; likewise.
        hidden: channels between the layers.
        kv_heads: heads of keys and values, where several query heads share one.
        width: channels of a head; None where it is always ``hidden / heads``, so that heads and hidden channels go
            together.
    """

    name: str
    mlp: tuple[str, ...]
    heads: tuple[str, ...]
    hidden: str
    kv_heads: str | None = None
    width: str | None = None


PLAIN = (("intermediate_size",), ("num_attention_heads",), "hidden_size")
LLAMA = Family("llama", *PLAIN, kv_heads="num_key_value_heads", width="head_dim")
VIT = Family("vit", *PLAIN, width="head_dim")
BERT = Family("bert", *PLAIN)
DISTILBERT = Family("distilbert", ("hidden_dim",), ("n_heads",), "dim")
T5 = Family("t5", ("d_ff",), ("num_heads",), "d_model", width="d_kv")
BART = Family(
    "bart", ("encoder_ffn_dim", "decoder_ffn_dim"), ("encoder_attention_heads", "decoder_attention_heads"), "d_model"
)
KNOWN = (
    "Known are models built like Llama (Mistral, Qwen2, Qwen3, SmolLM), BERT (MiniLM, RoBERTa, DistilBERT), ViT, T5, "
    "and BART (Marian)."
)


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family that a configuration is of.

    Args:
        config: as ``config.json`` holds it.

    Raises:
        AttarError: it is of none that is known.

    Example:
        >>> family_of({"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}).name
        'bert'
    """
    marks = {"rms_norm_eps": LLAMA, "num_key_value_heads": LLAMA, "patch_size": VIT}
    first = next((found for mark, found in marks.items() if mark in config), BERT)
    for found in (T5, BART, DISTILBERT, first):
        fields = (*found.mlp, *found.heads, found.hidden, *([found.width] if found is T5 and found.width else []))
        if all(isinstance(config.get(field), int) for field in fields):
            return found
    raise AttarError(
        f"Parts of a model of type '{config.get('model_type', 'unknown')}' cannot be cut: its config names no sizes "
        f"that are known. {KNOWN}"
    )


@dataclass(frozen=True)
class Sizes:
    """Hold the sizes of a transformer.

    Args:
        family: whose fields they are in.
        mlp: channels inside the MLPs, by field.
        heads: query heads, by field.
        kv_heads: heads of keys and values.
        width: channels of a head, by the field of the heads.
        hidden: channels between the layers.
    """

    family: Family
    mlp: Mapping[str, int]
    heads: Mapping[str, int]
    kv_heads: int
    width: Mapping[str, int]
    hidden: int

    @property
    def together(self) -> int:
        """Return of how many the hidden channels are a multiple, where heads go with them; else 1."""
        return 1 if self.family.width else math.lcm(*self.width.values())


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Return the sizes that a configuration holds.

    Raises:
        AttarError: the family is unknown, or the heads do not divide.

    Example:
        >>> sizes_of({"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}).width
        {'num_attention_heads': 4}
    """
    family = family_of(config)
    hidden, heads = int(config[family.hidden]), {field: int(config[field]) for field in family.heads}
    explicit = (config.get(family.width) if family.width else None) or 0
    for field, count in heads.items():
        if not explicit and hidden % count:
            raise AttarError(f"The config is wrong: {family.hidden} {hidden} does not divide by {field} {count}.")
    most = max(heads.values())
    kv_heads = int((config.get(family.kv_heads) if family.kv_heads else None) or most)
    if most % kv_heads:
        raise AttarError(
            f"The config is wrong: {most} query heads cannot share {kv_heads} heads of keys and values equally."
        )
    width = {field: explicit or hidden // count for field, count in heads.items()}
    return Sizes(family, {field: int(config[field]) for field in family.mlp}, heads, kv_heads, width, hidden)
