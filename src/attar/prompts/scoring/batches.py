"""Put sequences of unlike lengths into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

TOKENS_PER_BATCH = 1536
"""Tokens a forward pass takes at once: measured on 2 cores, more gives no speed and costs memory."""

START = 32
"""Tokens that could be computed in the time that a forward pass takes besides its tokens: measured on 2 cores."""


def length_buckets(lengths: np.ndarray, tokens: int, start: int = START) -> Iterator[np.ndarray]:
    """Yield places in batches of at most ``tokens`` padded tokens, longest first (memory peaks at the beginning).

    Of all ways to cut the sorted examples into batches this is the cheapest: padding is computed like tokens, and a
    batch more costs as much as ``start`` tokens.

    Args:
        lengths: ``(examples,)`` tokens of each example.
        tokens: padded tokens a batch may have; a longer single example makes a batch of one.
        start: what a batch costs besides its tokens, in tokens.

    Example:
        >>> [places.tolist() for places in length_buckets(np.array([9, 200, 10, 180]), 1000)]
        [[1, 3], [2, 0]]
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = [int(length) for length in lengths[order]]
    cheapest, cut = [0.0], [0]
    for end in range(1, len(order) + 1):
        first, found = end - 1, (np.inf, 0)
        while first >= 0 and (first == end - 1 or sorted_lengths[first] * (end - first) <= tokens):
            found = min(found, (cheapest[first] + start + sorted_lengths[first] * (end - first), first))
            first -= 1
        cheapest.append(found[0])
        cut.append(found[1])
    ends, end = [], len(order)
    while end:
        ends.append(end)
        end = cut[end]
    yield from (order[cut[end] : end] for end in reversed(ends))


def equal_lengths(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yield places in batches of at most about ``tokens`` tokens that need no padding, longest first."""
    for length in np.unique(lengths)[::-1]:
        places = np.flatnonzero(lengths == length)
        count = max(1, tokens // int(length))
        for first in range(0, len(places), count):
            yield places[first : first + count]


def common(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> int:
    """Return how many first tokens two sequences share.

    Example:
        >>> common([1, 2, 3], [1, 2])
        2
    """
    limit = min(len(first), len(second))
    apart = np.flatnonzero(np.asarray(first[:limit]) != np.asarray(second[:limit]))
    return int(apart[0]) if len(apart) else limit


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all sequences share, leaving each at least one token of its own.

    Example:
        >>> common_prefix([[1, 2, 3], [1, 2, 4]])
        2
        >>> common_prefix([[1, 2], [1, 2]])
        1
    """
    low, high = min(map(list, sequences)), max(map(list, sequences))  # all others lie between the two
    return min(common(low, high), min(len(sequence) for sequence in sequences) - 1)
