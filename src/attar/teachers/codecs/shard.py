"""Keep a part of a record in one file that can tell whether it is whole, and read it without loading it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy
from attar.store.files import write_bytes

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BLANK = b"0" * 64
"""Stands where the checksum goes while it is computed."""
TYPES = {"U8": "u1", "U16": "<u2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4"}
"""Numpy's names of the types that safetensors names."""


def write(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts as one safetensors file with a checksum over every byte of it, whole or not at all.

    Args:
        path: the file.
        tensors: name -> tensor.
        facts: JSON values.
    """
    from safetensors.torch import save

    # one entry alone: the library writes several in no fixed order
    note = json.dumps({"sha256": BLANK.decode(), "facts": facts}, allow_nan=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    blob = save(plain, {"attar": note})
    digest = hashlib.sha256(blob).hexdigest().encode()
    write_bytes(path, blob.replace(BLANK, digest, 1))


class Shard:
    """Read a file that `write` wrote; tensors are mapped into memory, not loaded.

    Args:
        path: the file.

    Raises:
        AttarError: the file is missing, cut or no part of a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = False
        try:
            self._bytes = np.asarray(np.memmap(path, np.uint8, "r"))
            begin = 8 + int.from_bytes(self._bytes[:8].tobytes(), "little")
            self._header = self._bytes[8:begin].tobytes()
            body = json.loads(self._header)
            note = json.loads(body.pop("__metadata__", {}).get("attar", "null"))
            self.tensors = {name: self._tensor(entry, begin) for name, entry in body.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AttarError(f"{path} is damaged: {error}. Remove it and run again.") from error
        if not isinstance(note, dict) or not {"sha256", "facts"} <= note.keys():
            raise AttarError(f"{path} is no part of a teacher's record. Remove it and run again.")
        self._begin, self._digest = begin, str(note["sha256"])
        self.facts: dict[str, Any] = note["facts"]

    def _tensor(self, entry: Mapping[str, Any], begin: int) -> np.ndarray:
        first, last = entry["data_offsets"]
        found: np.ndarray = self._bytes[begin + first : begin + last].view(TYPES[entry["dtype"]])
        return found.reshape(entry["shape"])

    def check(self) -> Shard:
        """Return the shard after comparing its checksum; that is done once.

        Raises:
            AttarError: a byte of the file has changed.
        """
        if not self._checked:
            digest = hashlib.sha256(self._bytes[:8].tobytes())
            digest.update(self._header.replace(self._digest.encode(), BLANK, 1))
            digest.update(self._bytes[self._begin :].data)
            if digest.hexdigest() != self._digest:
                raise AttarError(f"{self.path} is damaged: its checksum differs. Remove it and run again.")
            self._checked = True
        return self


def ordered(rows: Rows, keys: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Return rows example by example in the order of ``keys``, positions ascending, and how many each example has.

    Args:
        rows: of these examples; an example may have any number of them, and none.
        keys: ``(examples,)`` content keys.

    Raises:
        ValueError: a row belongs to none of the examples.
    """
    key = rows.key.cpu().numpy()
    order = np.argsort(keys, kind="stable")
    found = order[np.searchsorted(keys[order], key[:, 0]).clip(max=len(keys) - 1)] if len(keys) else key[:, 0]
    if len(key) and not np.array_equal(keys[found], key[:, 0]):
        raise ValueError("the teacher gave rows of examples that it was not asked")
    places = np.lexsort((key[:, 1], found))
    if not np.array_equal(places, np.arange(len(places))):
        rows = rows.take(torch.from_numpy(places))
    return rows, np.bincount(found, minlength=len(keys))


def frame(rows: Rows, keys: np.ndarray, counts: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the tensors that say which rows a shard holds, as few as tell it.

    Args:
        rows: in the order of `ordered`.
        keys: ``(examples,)``.
        counts: ``(examples,)`` rows of each.
    """
    position = rows.key[:, 1].cpu().numpy()
    first = np.cumsum(counts) - counts
    start = np.where(counts > 0, position[first.clip(max=max(len(position) - 1, 0))], 0) if len(position) else first
    found = {"examples": keys.astype(np.int64), "counts": counts.astype(np.int32), "starts": start.astype(np.int32)}
    if not np.array_equal(position, np.repeat(start - first, counts) + np.arange(len(position))):
        found["positions"] = position.astype(np.int32)
    weight = rows.weight.detach().cpu().numpy().astype(np.float32)
    if not (weight == 1.0).all():
        found["weight"] = weight
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}
