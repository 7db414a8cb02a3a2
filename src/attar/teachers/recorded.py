"""Answer from a record: what the teacher said once, by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy
from attar.teachers.codecs import FullCodec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class RecordedTeacher:
    """Answer as the teacher did when it was recorded; asking in any order, any batch, gives the same rows.

    Args:
        folder: the record's folder, with ``*.safetensors`` shards.
        fingerprint: the record's key.

    Raises:
        AttarError: the folder holds no shard, or an example was recorded twice.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise AttarError(f"{folder} holds no record of a teacher. Run the recipe again to record it.")
        self._index([FullCodec().read(shard) for shard in shards])
        self.fingerprint = fingerprint
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})

    def _index(self, parts: Sequence[Rows]) -> None:
        key = torch.cat([part.key for part in parts])
        order = torch.argsort(key[:, 0], stable=True)
        self._key = key[order]
        self._scores = torch.cat([part.dense() for part in parts])[order]
        self._weight = torch.cat([part.weight for part in parts])[order]
        self._sorted = self._key[:, 0].numpy()
        if len(np.unique(self._sorted)) < len(self._sorted):
            raise AttarError("An example was recorded twice. Remove the record's folder and run again.")

    def answer(self, examples: Examples) -> Rows:
        """Return the recorded rows, in the examples' order.

        Raises:
            AttarError: an example was never recorded.
        """
        places = np.searchsorted(self._sorted, examples.keys)
        inside = np.minimum(places, len(self._sorted) - 1)
        missing = self._sorted[inside] != examples.keys
        if missing.any():
            raise AttarError(
                f"{int(missing.sum())} examples are not in the teacher's record. Record the teacher on them first."
            )
        found = torch.from_numpy(inside)
        return Rows(self._key[found], self._weight[found], self._scores[found])
