"""Lay the weights of a model out as GGUF stores them: plain numbers, or blocks of 32 codes with their scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch

gguf: Any = lazy("gguf")

BLOCK = 32
"""Weights that share a scale."""
BLOCKS = ("q8_0", "q4_0", "q4_1")
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1"}


def rounded(weight: np.ndarray, precision: str) -> tuple[np.ndarray, Any]:
    """Return a matrix in a precision, each weight or block rounded by itself.

    Rows that do not part into blocks are kept in float16.

    Args:
        weight: ``(out, in)``, float32.
        precision: a key of `TYPES`.

    Returns:
        The numbers, or the blocks' bytes ``(out, bytes)``, and their type.
    """
    if precision in BLOCKS and weight.shape[-1] % BLOCK:
        precision = "float16"
    kind = getattr(gguf.GGMLQuantizationType, TYPES[precision])
    return gguf.quants.quantize(weight, kind), kind


def is_quantized(model: Model) -> bool:
    """Tell whether weights of a model lie on a grid already."""
    return bool(model.facts.get("quantized"))


def stored(
    name: str, weight: np.ndarray, model: Model, rows: np.ndarray | None = None
) -> tuple[np.ndarray, Any] | None:
    """Return the codes and scales that a quantized matrix was made of, as blocks; None for one that has none.

    Args:
        name: the parameter's name.
        weight: its numbers ``(out, in)``, float32, on their grid.
        model: holds what is known of the grid.
        rows: the order to write the rows in; as they are by default.

    Raises:
        AttarError: its grid is none that GGUF has, or the weights are off it.
    """
    facts: Mapping[str, Any] | None = (model.facts.get("quantized") or {}).get(name)
    if facts is None:
        return None
    form = facts["format"]
    if form not in BLOCKS or facts["group"] != BLOCK:
        raise AttarError(
            f"{name} was quantized in the format '{form}' in groups of {facts['group']}, and GGUF has "
            f"{', '.join(BLOCKS)} in groups of {BLOCK}. Quantize with one of these, or export with --precision float16."
        )
    scale = _part(model, f"{name}.scale")
    least = _part(model, f"{name}.minimum") if form == "q4_1" else None
    codes = _codes(name, weight, form, scale, least)
    order = np.arange(len(weight)) if rows is None else rows
    blocks = pack(form, codes[order], scale[order], None if least is None else least[order])
    return blocks, getattr(gguf.GGMLQuantizationType, TYPES[form])


def _part(model: Model, name: str) -> np.ndarray:
    if name not in model.tensors:
        raise AttarError(f"The quantized model has no '{name}' beside its weights. Quantize it again.")
    tensor: torch.Tensor = model.tensors[name]
    return tensor.detach().float().cpu().numpy()


def _codes(name: str, weight: np.ndarray, form: str, scale: np.ndarray, least: np.ndarray | None) -> np.ndarray:
    """Return the codes ``(out, groups, 32)`` of weights, which must be what the codes say, to the last bit."""
    blocks = weight.reshape(len(weight), -1, BLOCK)
    shift = np.zeros_like(scale) if least is None else least
    step = np.where(scale == 0, 1, scale)[..., None]
    codes = np.rint((blocks - shift[..., None]) / step)
    exact = (scale[..., None] * codes + shift[..., None]).astype(np.float32)
    halves = (scale, shift)
    kept = all(np.array_equal(half.astype(np.float16).astype(np.float32), half) for half in halves)
    low, high = {"q8_0": (-128, 127), "q4_0": (-8, 7), "q4_1": (0, 15)}[form]
    if not (kept and np.array_equal(exact, blocks) and codes.min() >= low and codes.max() <= high):
        raise AttarError(
            f"{name} is not what its {form} codes say: it was changed after it was quantized. Put quantization last."
        )
    return np.asarray(codes)


def pack(form: str, codes: np.ndarray, scale: np.ndarray, least: np.ndarray | None = None) -> np.ndarray:
    """Return blocks as bytes.

    Args:
        form: ``q8_0`` (codes from -128 to 127), ``q4_0`` (from -8 to 7) or ``q4_1`` (from 0 to 15).
        codes: ``(out, groups, 32)`` whole numbers.
        scale: ``(out, groups)``: a weight is scale · code, plus ``least``.
        least: ``(out, groups)`` for ``q4_1``.

    Returns:
        ``(out, bytes)`` uint8.

    Example:
        >>> pack("q8_0", np.ones((1, 1, 32)), np.ones((1, 1)))[0, :3].tolist()
        [0, 60, 1]
    """
    head = [scale.astype("<f2")[..., None].view(np.uint8)]
    if least is not None:
        head.append(least.astype("<f2")[..., None].view(np.uint8))
    if form == "q8_0":
        body: np.ndarray = codes.astype(np.int8).view(np.uint8)
    else:
        nibbles = (codes + (8 if form == "q4_0" else 0)).astype(np.uint8)
        body = nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4
    whole = np.concatenate([*head, body], axis=-1)
    return whole.reshape(len(codes), -1)
