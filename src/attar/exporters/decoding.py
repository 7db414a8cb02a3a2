"""Let a graph of `attar.exporters.onnx_generation` read and write token by token with onnxruntime and numpy alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Cache:
    """Hold the keys and values of what was read, in buffers that are never copied.

    Args:
        binding: the session's inputs and outputs, bound to the buffers.
        capacity: tokens that the buffers hold.
        length: tokens that were read.
    """

    binding: Any
    capacity: int
    length: int = 0


@dataclass(frozen=True)
class Written:
    """Hold what was written for one prompt.

    Args:
        ids: the tokens, with the end if it came.
        prefill_ms: milliseconds until the first token was known.
        decode_ms: milliseconds of all tokens after the first.
    """

    ids: list[int]
    prefill_ms: float
    decode_ms: float


class Reader:
    """Read tokens one call after the other, each call after all that was read before.

    Args:
        session: an onnxruntime session of a graph that writes.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._layers = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("past.")}

    def cache(self, capacity: int) -> Cache:
        """Return an empty cache for that many tokens."""
        import onnxruntime

        binding = self._session.io_binding()
        for name, (_, heads, _, width) in self._layers.items():
            # the operator writes into the buffer it reads when both are one: nothing is copied from token to token
            buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, capacity, width), np.float32))
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past.", "present."), buffer)
        return Cache(binding, capacity)

    def feed(self, ids: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the inputs of one call that reads tokens after nothing, for who runs the graph without a cache."""
        tokens = np.array([ids], np.int64)
        count = np.array([len(ids)], np.int64)
        past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self._layers.items()}
        return {"input_ids": tokens, "lengths": count, "places": count[None] - 1, **past}

    def read(self, cache: Cache, ids: Sequence[int], rows: int = 1) -> np.ndarray:
        """Read tokens and return the scores of what may follow each of the last ``rows`` ``(rows, vocab)``.

        Args:
            cache: what was read before; it takes these tokens in.
            ids: the tokens.
            rows: how many of the last tokens' scores are wanted.

        Raises:
            ValueError: the cache is full.
        """
        cache.length += len(ids)
        if cache.length > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} tokens, not {cache.length}")
        places = np.arange(len(ids) - rows, len(ids), dtype=np.int64)
        cache.binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        cache.binding.bind_cpu_input("lengths", np.array([cache.length], np.int64))
        cache.binding.bind_cpu_input("places", places[None])
        cache.binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(cache.binding)
        return np.asarray(cache.binding.get_outputs()[-1].numpy()[0])


def greedy(reader: Reader, prompt: Sequence[int], end: int, limit: int) -> Written:
    """Write the likeliest token, again and again, until the end or the limit.

    Args:
        reader: of the graph.
        prompt: token ids to read first, at least one.
        end: id of the token that ends a text.
        limit: tokens to write at most.
    """
    begin = time.perf_counter()
    cache = reader.cache(len(prompt) + limit)
    ids = [int(reader.read(cache, prompt)[0].argmax())]
    first = time.perf_counter()
    while ids[-1] != end and len(ids) < limit:
        ids.append(int(reader.read(cache, ids[-1:])[0].argmax()))
    return Written(ids, 1000 * (first - begin), 1000 * (time.perf_counter() - first))


def log_likelihood(reader: Reader, prompt: Sequence[int], target: Sequence[int]) -> np.ndarray:
    """Return the log-probability of each token of a target after a prompt ``(tokens,)``.

    Args:
        reader: of the graph.
        prompt: token ids that are read but not judged, at least one.
        target: token ids that are judged.
    """
    ids = [*prompt, *target][:-1]
    scores = reader.read(reader.cache(len(ids)), ids, len(target)).astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    return np.asarray(scores[np.arange(len(target)), target] - np.log(np.exp(scores).sum(axis=1)))
