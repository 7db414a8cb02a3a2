"""Reckon the sizes that a transformer has after it was made narrower, from its configuration alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attar.compressors.prune.sizes import Sizes, sizes_of
from attar.errors import AttarError

DIVIDES = frozenset({"llama", "gemma", "gemma2"})
"""Types of models whose configuration refuses a hidden size that is no multiple of the heads, whatever their width."""


@dataclass(frozen=True)
class Shares:
    """Hold the shares to remove, each above 0 and below 1, or None.

    Args:
        mlp: of the channels inside the MLPs.
        heads: of the query heads.
        kv_heads: of the heads of keys and values, with their query heads.
        hidden: of the channels between the layers.
        round_to: channels left are a multiple of it.
    """

    mlp: float | None = None
    heads: float | None = None
    kv_heads: float | None = None
    hidden: float | None = None
    round_to: int = 16


def narrowed(config: Mapping[str, Any], shares: Shares) -> dict[str, int]:
    """Return the fields of a configuration that change, with their new values.

    Args:
        config: as ``config.json`` holds it.
        shares: what to remove.

    Raises:
        AttarError: nothing is asked for, a size would be the whole or nothing, or heads would not divide.

    Example:
        >>> narrowed({"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}, Shares(mlp=0.5))
        {'intermediate_size': 48}
    """
    if not any((shares.mlp, shares.heads, shares.kv_heads, shares.hidden)):
        raise AttarError(
            "width removes nothing: give mlp, heads, kv_heads or hidden, each a share to remove such as 0.25."
        )
    sizes = sizes_of(config)
    changes = {} if sizes.together > 1 else _fewer_heads(sizes, shares)
    if shares.mlp:
        changes |= {field: rounded(field, size, shares.mlp, shares.round_to) for field, size in sizes.mlp.items()}
    if sizes.together > 1 and (shares.hidden or shares.heads or shares.kv_heads):
        changes |= _together(sizes, shares)
    divides = config.get("model_type") in DIVIDES
    field = sizes.family.heads[0]
    heads = changes.get(field, sizes.heads[field])
    if shares.hidden and sizes.together == 1:
        step = math.lcm(shares.round_to, heads if divides else 1)
        changes[sizes.family.hidden] = rounded(sizes.family.hidden, sizes.hidden, shares.hidden, step)
    elif divides and sizes.hidden % heads:
        step = sizes.kv_heads if sizes.kv_heads < sizes.heads[field] else 1
        fitting = [count for count in range(step, sizes.heads[field], step) if sizes.hidden % count == 0]
        raise AttarError(
            f"{heads} heads would be left, and the config of a {config['model_type']} asks that the hidden size "
            f"{sizes.hidden} is a multiple of them. {_advice(sizes.heads[field], fitting)}"
        )
    return changes


def rounded(what: str, size: int, share: float, multiple: int) -> int:
    """Return what is left of a size, rounded to the nearest multiple, one at least.

    Raises:
        AttarError: that is the whole, or more.

    Example:
        >>> rounded("hidden_size", 576, 0.25, 16), rounded("hidden_size", 40, 0.9, 16)
        (432, 16)
    """
    left = max(1, math.floor(size * (1 - share) / multiple + 0.5)) * multiple
    if left >= size:
        raise AttarError(
            f"{what} is {size}: without a share of {share:g}, rounded to a multiple of {multiple}, it is {left}, so "
            "nothing is removed. Give a larger share, or a smaller round_to."
        )
    return left


def _fewer_heads(sizes: Sizes, shares: Shares) -> dict[str, int]:
    """Return the new counts of heads where a head has a width of its own."""
    field, kv_field = sizes.family.heads[0], sizes.family.kv_heads
    heads = sizes.heads[field]
    kv_heads = sizes.kv_heads if kv_field else heads
    per_group = heads // kv_heads
    changes: dict[str, int] = {}
    if shares.kv_heads:
        if kv_field is None:
            raise AttarError(f"A model like {sizes.family.name} has no KV heads that query heads share. Give heads.")
        kv_heads = _count(kv_field, kv_heads, shares.kv_heads)
        heads = per_group * kv_heads
        changes = {field: heads, kv_field: kv_heads}
    if shares.heads:
        before, heads = heads, _count(field, heads, shares.heads)
        if per_group == 1:
            kv_heads = heads
            changes |= {kv_field: heads} if kv_field else {}
        if heads % kv_heads:
            fitting = range(kv_heads, before, kv_heads)
            raise AttarError(
                f"{heads} of {before} query heads would be left, and {kv_heads} KV heads cannot share them equally. "
                f"{_advice(before, fitting)}"
            )
        changes[field] = heads
    return changes


def _together(sizes: Sizes, shares: Shares) -> dict[str, int]:
    """Return hidden size and heads where the width of a head is one divided by the other."""
    name, fields = sizes.family.name, list(sizes.heads)
    if not shares.hidden or shares.kv_heads:
        raise AttarError(
            f"In a model like {name}, heads × width is the hidden size, so heads go only together with hidden "
            "channels. Give hidden: heads are removed with it, and the width of a head stays."
        )
    step = math.lcm(shares.round_to, sizes.together)
    hidden = rounded(sizes.family.hidden, sizes.hidden, shares.hidden, step)
    left = {field: hidden // sizes.width[field] for field in fields}
    if shares.heads and any(_count(field, sizes.heads[field], shares.heads) != left[field] for field in fields):
        raise AttarError(
            f"In a model like {name}, {hidden} hidden channels have {left[fields[0]]} heads of "
            f"{sizes.width[fields[0]]}, and heads: {shares.heads:g} would leave another number. Give hidden alone."
        )
    return {sizes.family.hidden: hidden, **left}


def _count(field: str, count: int, share: float) -> int:
    left = math.floor(count * (1 - share) + 0.5)
    if not 0 < left < count:
        raise AttarError(
            f"{field} is {count}, and a share of {share:g} to remove would leave {'all' if left else 'none'}. "
            f"{_advice(count, range(1, count))}"
        )
    return left


def _advice(count: int, fitting: Iterable[int]) -> str:
    """Say which shares can be removed.

    Example:
        >>> _advice(9, [3, 6])
        'Shares that fit: 0.333 (leaves 6), 0.667 (leaves 3).'
        >>> _advice(1, [])
        'No share fits.'
    """
    shares = [f"{1 - left / count:.3g} (leaves {left})" for left in sorted(fitting, reverse=True)]
    return f"Shares that fit: {', '.join(shares)}." if shares else "No share fits."
