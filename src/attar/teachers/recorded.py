"""Answer from a record: what the teacher said once, by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar import catalog
from attar.core.examples import Examples
from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy
from attar.teachers.codecs.base import Codec
from attar.teachers.codecs.shard import Shard, write

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

INDEX = "index.safetensors"
FRAME = ("examples", "counts", "starts", "positions", "weight")
"""Tensors of a shard that say which rows it holds; all others are the codec's columns."""


def write_index(folder: Path, codec: Codec) -> None:
    """Write, last of all, which shard of a record holds which example; a folder without it is no record.

    Args:
        folder: holds the shards.
        codec: that they were written with.

    Raises:
        AttarError: there is no shard, a shard is damaged, or an example was recorded twice.
    """
    paths = sorted(path for path in folder.glob("*.safetensors") if path.name != INDEX and path.name[0] != ".")
    if not paths:
        raise AttarError(f"{folder} holds no record of a teacher. Run the recipe again to record it.")
    shards = [Shard(path).check() for path in paths]
    whole = _places(shards)
    order = np.argsort(whole["examples"], kind="stable")
    _refuse_doubles(whole["examples"][order], folder)
    facts = {
        "codec": codec.name,
        "settings": codec.settings.model_dump(mode="json"),
        "choices": _choices(shards, folder),
        "shards": [path.name for path in paths],
    }
    write(folder / INDEX, {name: torch.from_numpy(values[order]) for name, values in whole.items()}, facts)


def _places(shards: Sequence[Shard]) -> dict[str, np.ndarray]:
    """Return of each example its key, shard, first row, number of rows and first position ``(examples,)``."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("examples", "shard", "first", "counts", "starts")}
    for number, shard in enumerate(shards):
        counts = shard.tensors["counts"].astype(np.int64)
        parts["shard"].append(np.full(len(counts), number))
        parts["first"].append(np.cumsum(counts) - counts)
        parts["counts"].append(counts)
        for name in ("examples", "starts"):
            parts[name].append(shard.tensors[name].astype(np.int64))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _choices(shards: Sequence[Shard], folder: Path) -> int:
    found = sorted({int(shard.facts["choices"]) for shard in shards})
    if len(found) > 1:
        both = " and ".join(map(str, found))
        raise AttarError(
            f"The shards in {folder} are of teachers with {both} choices. Remove the folder and run again."
        )
    return found[0]


def _refuse_doubles(keys: np.ndarray, folder: Path) -> None:
    if (keys[1:] == keys[:-1]).any():
        raise AttarError(f"An example was recorded twice in {folder}. Remove the folder and run again.")


class RecordedTeacher:
    """Answer as the teacher did when it was recorded; asking in any order, any batch, gives the same rows.

    Shards are mapped into memory and checked with their first use; only what is asked for is read.

    Args:
        folder: the record's folder: shards and an index.
        fingerprint: the record's key.

    Raises:
        AttarError: the folder holds no whole record, or an example was recorded twice.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        if not (folder / INDEX).is_file():
            raise AttarError(f"{folder} holds no record of a teacher. Run the recipe again to record it.")
        index = Shard(folder / INDEX).check()
        self.fingerprint = fingerprint
        self._folder, self._names = folder, index.facts["shards"]
        self._choices = int(index.facts["choices"])
        kind = catalog.entry("codec", index.facts["codec"])
        self.codec: Codec = kind(kind.Settings(**index.facts["settings"]))
        self.gives: frozenset[Signal] = self.codec.gives
        self._index = {name: np.array(values) for name, values in index.tensors.items()}
        _refuse_doubles(self._index["examples"], folder)
        self._open: dict[int, Shard] = {}
        self._shape = {name: part[:0] for name, part in self._shard(0).tensors.items() if name not in FRAME}

    def __len__(self) -> int:
        """Return the rows of the record."""
        return int(self._index["counts"].sum())

    def answer(self, examples: Examples) -> Rows:
        """Return the recorded rows, example by example in the examples' order, positions ascending.

        Raises:
            AttarError: an example was never recorded, or a shard is damaged.
        """
        places = self._places(examples.keys)
        key, weight = self._key(examples.keys, places)
        columns = self._columns(places, weight, key)
        return self.codec.decode(columns, torch.from_numpy(key), torch.from_numpy(weight), self._choices)

    def hard(self, examples: Examples) -> torch.Tensor:
        """Return the teacher's likeliest choice of each row ``(rows,)`` int64, in the order of `answer`.

        Raises:
            AttarError: an example was never recorded, or a shard is damaged.
        """
        return self.codec.hard(self._columns(self._places(examples.keys)), self._choices)

    def _places(self, keys: np.ndarray) -> np.ndarray:
        """Return where in the index each example stands."""
        known = self._index["examples"]
        inside = np.searchsorted(known, keys).clip(max=len(known) - 1)
        missing = known[inside] != keys
        if missing.any():
            raise AttarError(
                f"{int(missing.sum())} examples are not in the teacher's record. Record the teacher on them first."
            )
        return inside

    def _key(self, keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys ``(rows, 2)`` where positions follow one another, and weights of 1."""
        counts = self._index["counts"][places]
        position = _ranges(self._index["starts"][places], counts)
        key = np.stack([np.repeat(np.asarray(keys, np.int64), counts), position], axis=1)
        return key, np.ones(len(key), np.float32)

    def _columns(
        self, places: np.ndarray, weight: np.ndarray | None = None, key: np.ndarray | None = None
    ) -> dict[str, torch.Tensor]:
        """Gather the codec's columns of some examples; correct weights and positions where a shard holds its own."""
        counts = self._index["counts"][places]
        end = np.cumsum(counts)
        total = int(end[-1]) if len(end) else 0
        found = {name: np.empty((total, *part.shape[1:]), part.dtype) for name, part in self._shape.items()}
        for number, which in _groups(self._index["shard"][places]):
            here = _ranges((end - counts)[which], counts[which])
            there = _ranges(self._index["first"][places[which]], counts[which])
            tensors = self._shard(number).tensors
            for name, column in found.items():
                column[here] = tensors[name][there]
            if weight is not None and "weight" in tensors:
                weight[here] = tensors["weight"][there]
            if key is not None and "positions" in tensors:
                key[here, 1] = tensors["positions"][there]
        return {name: torch.from_numpy(column) for name, column in found.items()}

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = Shard(self._folder / self._names[number]).check()
        return self._open[number]


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``first[0], first[0] + 1, ...`` of each range, one after the other."""
    begin: Any = np.cumsum(counts) - counts
    return np.repeat(first - begin, counts) + np.arange(int(counts.sum()))


def _groups(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each number with the places at which it stands."""
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    for part in np.split(order, cuts):
        if len(part):
            yield int(numbers[part[0]]), part
