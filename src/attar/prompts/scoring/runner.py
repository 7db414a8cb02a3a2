"""Run rows of tokens that stand on one shared prefix through a causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.cache import cache_name, with_cache
from attar.core.rows import Head, score_shape
from attar.optional import lazy
from attar.prompts.scoring import shared_attention
from attar.prompts.scoring.batches import TOKENS_PER_BATCH, equal_lengths, length_buckets
from attar.prompts.scoring.shared_attention import Layers, UnsupportedAttentionError

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

WAYS = ("shared", "expanded", "plain")
"""How a prefix is reused: one for all rows inside the attention; laid out for each row, layer by layer; not at all."""

CHECK_PREFIX, CHECK_ROWS, CHECK_MORE = 5, (3, 1), 2


@dataclass
class Suffixes:
    """Hold rows that run: what each read beyond the shared prefix.

    Args:
        read: the tokens that each row read beyond the prefix.
        hidden: ``(rows, time, width)`` last hidden states of the latest tokens; a row's padding is on the right.
        prefix: tokens of the shared prefix.
        cache: keys and values, or None where nothing is reused.
        filled: ``(rows, own)`` bool, columns of the cache that hold a token.
    """

    read: list[list[int]]
    hidden: torch.Tensor
    prefix: int
    cache: Any
    filled: torch.Tensor

    @property
    def last(self) -> torch.Tensor:
        """Return the hidden state of each row's last token ``(rows, width)``, before any was added."""
        places = torch.tensor([len(row) - 1 for row in self.read], device=self.hidden.device)
        return self.hidden[torch.arange(len(self.read), device=self.hidden.device), places]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        places = torch.tensor(rows, dtype=torch.long, device=self.hidden.device)
        self.read = [self.read[row] for row in rows]
        self.hidden, self.filled = self.hidden[places], self.filled[places]
        if self.cache is not None:
            self.cache.reorder_cache(places)

    def forget(self, tokens: int) -> None:
        """Go back by a number of tokens, the same for all rows."""
        self.read = [row[:-tokens] for row in self.read]
        self.filled = self.filled[:, :-tokens]
        for layer in self.cache.layers if self.cache is not None else ():
            layer.keys, layer.values = layer.keys[..., :-tokens, :], layer.values[..., :-tokens, :]


class PrefixRunner:
    """Run a causal language model on rows that share a prefix.

    The fastest way that the model allows is found on first use: by what its configuration says, then by comparing a
    few tokens with the model's own forward pass.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.token_forwards = 0
        self._way: str | None = None

    @property
    def way(self) -> str:
        """Return how a prefix is reused, one of `WAYS`."""
        if self._way is None:
            self._way = next(way for way in possible_ways(self.model) if way == "plain" or self._agrees(way))
        return self._way

    @contextmanager
    def session(self) -> Iterator[None]:
        """Set the model up for a number of runs, and leave it as it was."""
        with self._session(self.way):
            yield

    @contextmanager
    def _session(self, way: str) -> Iterator[None]:
        with torch.inference_mode():
            if way != "shared":
                yield
                return
            from transformers import AttentionInterface

            AttentionInterface.register(shared_attention.NAME, shared_attention.attend)
            own = self.model.config._attn_implementation
            self.model.set_attn_implementation(shared_attention.NAME)
            try:
                yield
            finally:
                self.model.set_attn_implementation(own)

    def buckets(self, lengths: np.ndarray, extend: bool) -> Iterator[np.ndarray]:
        """Yield places of rows that run together; rows that are to be extended may have to be equally long."""
        # where masks are the model's own, a hole between a row's tokens would count as distance in a sliding window
        ways = equal_lengths if extend and self.way == "expanded" else length_buckets
        return ways(lengths, TOKENS_PER_BATCH)

    def begin(self, prefix: Layers | None, rests: Sequence[Sequence[int]]) -> Suffixes:
        """Return rows that have read the prefix and then ``rests``, at least one token each.

        Args:
            prefix: keys and values; None for no prefix.
            rests: tokens of each row beyond the prefix.
        """
        return self._begin(self.way, prefix, rests)

    def _begin(self, way: str, prefix: Layers | None, rests: Sequence[Sequence[int]]) -> Suffixes:
        tokens, filled = self._padded(rests)
        length = 0 if prefix is None else prefix[0][0].shape[-2]
        cache = None
        if way != "plain":
            layers = self.model.config.get_text_config().num_hidden_layers
            cache = shared_attention.prefix_cache(prefix, layers, way == "shared")
        positions = length + torch.arange(tokens.shape[1], device=tokens.device)[None]
        hidden = self._forward(way, tokens, cache, positions, None)
        return Suffixes([list(rest) for rest in rests], hidden, length, cache, filled)

    def extend(self, rows: Suffixes, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Let each row read equally many more tokens.

        Returns:
            ``(rows, more, width)`` hidden states of the added tokens.
        """
        return self._extend(self.way, rows, tokens)

    def _extend(self, way: str, rows: Suffixes, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        more, lengths = len(tokens[0]), [len(row) for row in rows.read]
        rows.read = [[*row, *added] for row, added in zip(rows.read, tokens, strict=True)]
        added, fresh = self._padded(tokens)
        rows.filled = torch.cat([rows.filled, fresh], dim=1)
        if way == "plain":
            every, _ = self._padded(rows.read)
            hidden = self._forward(way, every, None, None, None)
            return torch.stack([hidden[i, length : length + more] for i, length in enumerate(lengths)])
        start = torch.tensor(lengths, device=added.device)[:, None] + rows.prefix
        positions = start + torch.arange(more, device=added.device)
        return self._forward(way, added, rows.cache, positions, self._mask(rows.filled, more))

    def _mask(self, filled: torch.Tensor, more: int) -> torch.Tensor:
        """Return what is added to the products of the last ``more`` columns with all own columns."""
        columns = filled.shape[1]
        order = torch.ones(more, columns, dtype=torch.bool, device=filled.device).tril(columns - more)
        mask = torch.zeros(len(filled), 1, more, columns, dtype=self.model.dtype, device=filled.device)
        return mask.masked_fill(~(order & filled[:, None, None]), -torch.inf)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(row) for row in rows)
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        filled = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        return tokens.to(self.model.device), filled.to(self.model.device)

    def _forward(self, way: str, tokens: torch.Tensor, cache: Any, positions: Any, mask: Any) -> torch.Tensor:
        self.token_forwards += tokens.numel()
        given: dict[str, Any] = {"use_cache": False}
        if way != "plain":
            given = {"use_cache": True, "cache": cache}
        if way == "shared":
            given |= {"position_ids": positions, "shared_prefix": (cache, mask)}
        body = self.model.base_model
        hidden: torch.Tensor = body(**with_cache(body, {"input_ids": tokens, **given})).last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the scores over the whole vocabulary ``(..., vocabulary)``, in float32."""
        head = self.model.get_output_embeddings()
        scores: torch.Tensor = Head(head.weight, None, *score_shape(self.model.config)).finish(head(hidden))
        return scores.float()

    def _agrees(self, way: str) -> bool:
        """Tell whether a way gives what the model's own forward pass gives, on a few tokens."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        ids = [(7 + 13 * i) % vocabulary for i in range(CHECK_PREFIX + sum(CHECK_ROWS) + CHECK_MORE)]
        prefix, more = ids[:CHECK_PREFIX], ids[-CHECK_MORE:]
        rests = [ids[CHECK_PREFIX : CHECK_PREFIX + length] for length in CHECK_ROWS]
        spent = self.token_forwards
        try:
            with self._session(way):
                # rows of unlike lengths run together only where the masks are this module's own
                batches = [rests] if way == "shared" else [[rest] for rest in rests]
                found = [hidden for batch in batches for hidden in self._tail(way, prefix, batch, more)]
        except UnsupportedAttentionError:
            return False
        with self._session("plain"):
            whole = [self._padded([[*prefix, *rest, *more]])[0] for rest in rests]
            plain = [self._forward("plain", tokens, None, None, None)[0, -CHECK_MORE:] for tokens in whole]
        self.token_forwards = spent
        most = 1e-4 if self.model.dtype == torch.float32 else 0.05
        return all(
            float((ours - own).float().norm()) <= most * float(own.float().norm())
            for ours, own in zip(found, plain, strict=True)
        )

    def _tail(self, way: str, prefix: list[int], rests: list[list[int]], more: list[int]) -> torch.Tensor:
        rows = self._begin(way, own_layers(self._begin(way, None, [prefix])), rests)
        return self._extend(way, rows, [more] * len(rests))


def own_layers(rows: Suffixes) -> Layers:
    """Return the keys and values of the rows' own tokens."""
    return [(layer.keys, layer.values) for layer in rows.cache.layers]


def possible_ways(model: Any) -> tuple[str, ...]:
    """Return the ways of `WAYS` that a model's configuration does not rule out, the fastest first."""
    takes = inspect.signature(model.base_model.forward).parameters
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    changing = rope.get("rope_type") in ("dynamic", "longrope")  # a token's key depends on how long its sequence gets
    if getattr(model, "_is_stateful", False) or cache_name(model.base_model) is None or changing:
        return ("plain",)
    open_attention = getattr(model, "_supports_attention_backend", False) and "position_ids" in takes
    return WAYS if open_attention and sees_everything(model.config) else WAYS[1:]


def sees_everything(config: Any) -> bool:
    """Tell whether every layer of a model sees all earlier tokens.

    Example:
        >>> from types import SimpleNamespace
        >>> sees_everything(SimpleNamespace(layer_types=["full_attention", "sliding_attention"]))
        False
    """
    if getattr(config, "sub_configs", None) or getattr(config, "attention_chunk_size", None):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))
