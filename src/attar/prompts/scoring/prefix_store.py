"""Keep the keys and values of prompts' prefixes: what two prompts share is computed and held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attar.optional import lazy
from attar.prompts.scoring.batches import common
from attar.prompts.scoring.runner import PrefixRunner, own_layers
from attar.prompts.scoring.shared_attention import Layers

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

GIB = 2**30


@dataclass(eq=False)
class Node:
    """Hold the own tokens' keys and values of a node of the tree.

    Args:
        tokens: from the root to the node's end.
        start: the place of the node's first own token.
        layers: keys and values of the tokens from ``start``.
        parent: what the tokens before ``start`` belong to; they may be only a beginning of its tokens.
    """

    tokens: np.ndarray
    start: int
    layers: Layers
    parent: Node | None

    @property
    def nbytes(self) -> int:
        """Return the bytes of the keys and values."""
        return sum(part.nbytes for pair in self.layers for part in pair)

    def path(self, length: int) -> Layers:
        """Return the keys and values of the first ``length`` tokens from the root."""
        parts: list[Layers] = []
        node: Node | None = self
        while node is not None and length:
            if length > node.start:
                own = length - node.start
                parts.insert(0, [(keys[..., :own, :], values[..., :own, :]) for keys, values in node.layers])
                length = node.start
            node = node.parent
        if len(parts) == 1:
            return parts[0]
        joined = [
            [torch.cat(sides, dim=-2) for sides in zip(*pairs, strict=True)] for pairs in zip(*parts, strict=True)
        ]
        return [(keys, values) for keys, values in joined]


class PrefixStore:
    """Hold prefixes in a tree; the least recently used go when they take too many bytes.

    A new prefix hangs on the longest beginning that any kept prefix shares with it, so of prompts that begin alike only
    what sets each apart is computed.

    Args:
        runner: computes what is missing.
        limit: bytes that keys and values may take.
    """

    def __init__(self, runner: PrefixRunner, limit: int = GIB) -> None:
        self.runner, self.limit = runner, limit
        self._nodes: dict[int, Node] = {}  # in the order of use, the latest last

    @property
    def nbytes(self) -> int:
        """Return the bytes of all that is kept."""
        return sum(node.nbytes for node in self._nodes.values())

    def get(self, tokens: Sequence[int]) -> Layers:
        """Return the keys and values of a prefix, within a session of the runner."""
        wanted = np.asarray(tokens, np.int64)
        shared, node = self._longest(wanted)
        if node is None or shared < len(wanted):
            node = self._grown(wanted, shared, node)
        layers = node.path(len(wanted))
        self._touch(node)
        return layers

    def _longest(self, wanted: np.ndarray) -> tuple[int, Node | None]:
        found: tuple[int, Node | None] = (0, None)
        for node in self._nodes.values():
            shared = common(wanted, node.tokens)
            if shared > found[0]:
                found = (shared, node)
        return found

    def _grown(self, wanted: np.ndarray, shared: int, parent: Node | None) -> Node:
        while parent is not None and parent.start >= shared:
            parent = parent.parent
        before = None if parent is None else parent.path(shared)
        rows = self.runner.begin(before, [wanted[shared:].tolist()])
        return Node(wanted, shared, own_layers(rows), parent)

    def _touch(self, node: Node) -> None:
        """Make a node the latest used, then its ancestors: so none of them ever goes before it."""
        step: Node | None = node
        while step is not None:
            self._nodes.pop(id(step), None)
            self._nodes[id(step)] = step
            step = step.parent
        kept = self.nbytes
        while kept > self.limit:
            kept -= self._nodes.pop(next(iter(self._nodes))).nbytes
