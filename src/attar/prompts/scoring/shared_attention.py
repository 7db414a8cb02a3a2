"""Attend to a prefix that exists once for all rows of a batch, and to each row's own tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Layers = Sequence[tuple["torch.Tensor", "torch.Tensor"]]
"""The keys and values of each layer, ``(1, heads, tokens, width)``."""

NAME = "attar_shared_prefix"
HARMLESS = {"position_ids", "use_cache", "output_attentions", "cache_position", "dropout", "is_causal"}
"""Arguments of an attention that change nothing here; any other (windows, soft caps, sinks) is refused."""


class UnsupportedAttentionError(Exception):
    """Tell that a model's attention wants more than keys, values and the causal order."""


@functools.cache
def layer_class() -> Any:
    """Return the class of a layer's keys and values; made on first use, as it builds on a class of `transformers`."""
    from transformers.cache_utils import DynamicLayer

    class PrefixLayer(DynamicLayer):
        """Hold a layer's own keys and values of each row; the prefix stays as it is, one for all rows.

        Args:
            prefix: keys and values ``(1, heads, tokens, width)``, or None.
            split: the attention looks up the prefix itself; else it is laid out for each row, for this layer's
                attention only.
        """

        def __init__(self, prefix: Any, split: bool) -> None:
            super().__init__()
            self.prefix, self.split = prefix, split

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            own: tuple[Any, Any] = super().update(key_states, value_states, *args, **kwargs)
            if self.split or self.prefix is None:
                return own
            keys, values = (
                torch.cat([kept.expand(len(new), -1, -1, -1), new], dim=-2)
                for kept, new in zip(self.prefix, own, strict=True)
            )
            return keys, values

        def get_seq_length(self) -> int:
            own: int = super().get_seq_length()
            return own if self.prefix is None else own + int(self.prefix[0].shape[-2])

    return PrefixLayer


def prefix_cache(prefix: Layers | None, layers: int, split: bool) -> Any:
    """Return a cache of `transformers` whose rows all stand on one prefix."""
    from transformers.cache_utils import Cache

    made = layer_class()
    return Cache(layers=[made(None if prefix is None else prefix[i], split) for i in range(layers)])


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return each query's attention over the prefix and its own row, as if both were one sequence.

    The queries of all rows go against the one prefix in a single product, without a mask. The two parts are merged by
    the log of their sums of exponentials, which is exact.

    Args:
        module: the attention layer; only its ``layer_idx`` is read.
        query: ``(rows, heads, time, width)``.
        key: ``(rows, key heads, own, width)`` of the rows' own tokens.
        value: as ``key``.
        attention_mask: must be None.
        scaling: of the products; the square root of the width by default.
        kwargs: ``shared_prefix``: the cache and, unless the own tokens are simply causal, an additive mask.

    Raises:
        UnsupportedAttentionError: the model asks for something that is not implemented here.

    Reference:
        Juravsky et al., "Hydragen", 2024, section 3.
    """
    shared = kwargs.pop("shared_prefix", None)
    more = sorted(name for name, given in kwargs.items() if given is not None and name not in HARMLESS)
    if shared is None or attention_mask is not None or more or kwargs.get("is_causal") is False:
        raise UnsupportedAttentionError(", ".join(more))
    cache, mask = shared
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out, mass = partial_attention(query, key, value, scale, mask, causal=mask is None)
    prefix = cache.layers[module.layer_idx].prefix
    if prefix is not None:
        out = _merged(out, mass, *_over_prefix(query, prefix, scale))
    return out.transpose(1, 2).contiguous(), None


def _over_prefix(query: torch.Tensor, prefix: Any, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of all rows' queries over one prefix, with its log-sum-exp."""
    rows, heads, time, width = query.shape
    keys, values = prefix
    # all queries that read the same key head side by side: (1, key heads, queries, width)
    flat = query.transpose(0, 1).reshape(1, keys.shape[1], -1, width)
    out, mass = partial_attention(flat, keys, values, scale, None, causal=False)
    out = out.reshape(heads, rows, time, values.shape[-1]).transpose(0, 1)
    return out, mass.reshape(heads, rows, time).transpose(0, 1)


def _merged(one: torch.Tensor, one_mass: Any, two: torch.Tensor, two_mass: Any) -> torch.Tensor:
    share = torch.sigmoid(one_mass - two_mass).unsqueeze(-1)  # of the first part, in float32
    return torch.lerp(two.to(share.dtype), one.to(share.dtype), share).to(one.dtype)


def partial_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention over some of the keys, and the log of the sum of exponentials that it was divided by.

    Args:
        query: ``(rows, heads, time, width)``.
        key: ``(rows, key heads, keys, width)``; heads are a multiple of key heads.
        value: as ``key``; its width may differ.
        scale: of the products.
        mask: added to the products, ``(rows, 1, time, keys)``, or None.
        causal: query ``i`` sees keys 0 to ``i``; there must be as many keys as queries.

    Returns:
        ``(rows, heads, time, width)`` and, in float32, ``(rows, heads, time)``.
    """
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    products = (query @ key.transpose(-1, -2)).float() * scale
    if causal:
        hidden = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).triu(1)
        products = products.masked_fill(hidden, -torch.inf)
    if mask is not None:
        products = products + mask
    mass = torch.logsumexp(products, dim=-1)
    return torch.exp(products - mass.unsqueeze(-1)).to(value.dtype) @ value, mass
