"""Keep what a teacher's layers gave in shards of float16, and read it back by example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.capture import joined
from attar.errors import AttarError
from attar.optional import lazy
from attar.teachers.codecs.shard import Shard, write
from attar.teachers.recorded import INDEX

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

KEYS = "examples"
"""Tensor of a shard that holds its examples' content keys."""
OWN = "feature/"
"""Stands before the names of features in a shard, so that none is taken for another tensor."""
MASK = f"{OWN}mask"


def frozen(features: Mapping[str, torch.Tensor], keys: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the tensors of a shard: features as float16, what is no float as it is, and the examples' keys.

    Args:
        features: name -> ``(examples, ...)``.
        keys: ``(examples,)`` content keys, in the same order.

    Raises:
        AttarError: a number is too large for float16, or is none; or a feature has not one entry an example.
    """
    for name, tensor in features.items():
        if len(tensor) != len(keys):
            raise AttarError(
                f"'{name}' of the teacher has {len(tensor)} entries for {len(keys)} examples; a feature has one for "
                "each. Name another."
            )
    found = {f"{OWN}{name}": _narrow(name, tensor.detach().cpu()) for name, tensor in features.items()}
    return {KEYS: torch.from_numpy(np.ascontiguousarray(keys, np.int64)), **found}


def _narrow(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8)
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    if not bool(half.isfinite().all()):
        raise AttarError(
            f"'{name}' of the teacher reaches {float(tensor.abs().max()):.3g}, and recorded features must be within "
            "65504 (float16). Set distill.record_features to false: the teacher then answers while the student learns."
        )
    return half


def time_dims(name: str, shape: Sequence[int], time: int) -> tuple[int, ...]:
    """Return which dimensions of a feature count tokens, by the rule that objectives read features with.

    Args:
        name: of the feature.
        shape: ``(examples, ...)``.
        time: tokens of the longest text, padding included.

    Example:
        >>> time_dims("hidden:0", (2, 7, 16), 7), time_dims("attention:0", (2, 4, 7, 7), 7), time_dims("map", (2, 3), 7)
        ((1,), (2, 3), ())
    """
    if name.startswith("attention:"):
        return (2, 3) if tuple(shape[2:]) == (time, time) else ()
    timed = name == "mask" or len(shape) == 3
    return (1,) if timed and shape[1] == time else ()


def write_index(folder: Path) -> None:
    """Write, last of all, which shard holds which example's features; a folder without it is no record of them.

    Args:
        folder: holds shards of `frozen` tensors.

    Raises:
        AttarError: there is no shard, or a shard is damaged.
    """
    paths = sorted(path for path in folder.glob("*.safetensors") if path.name != INDEX and path.name[0] != ".")
    if not paths:
        raise AttarError(_absent(folder))
    shards = [Shard(path).check() for path in paths]
    counts = [len(shard.tensors[KEYS]) for shard in shards]
    whole = {
        KEYS: np.concatenate([shard.tensors[KEYS] for shard in shards]).astype(np.int64),
        "shard": np.repeat(np.arange(len(shards)), counts),
        "row": np.concatenate([np.arange(count) for count in counts]),
        "length": np.concatenate([_lengths(shard.tensors) for shard in shards]),
    }
    order = np.argsort(whole[KEYS], kind="stable")
    facts = {"shards": [path.name for path in paths], "times": _times(shards)}
    write(folder / INDEX, {name: torch.from_numpy(values[order]) for name, values in whole.items()}, facts)


def _lengths(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return where each example's last token stands, counted from 1 ``(examples,)``; 0 where nothing has tokens."""
    if MASK not in tensors:
        return np.zeros(len(tensors[KEYS]), np.int64)
    mask = tensors[MASK].astype(bool)
    last: np.ndarray = (mask * np.arange(1, mask.shape[1] + 1)).max(axis=1, initial=0)
    return last.astype(np.int64)


def _times(shards: Sequence[Shard]) -> dict[str, list[int]]:
    """Return the dimensions of time of each feature; one shard may have them by chance, all have not."""
    found: dict[str, list[int]] = {}
    for name in shards[0].tensors:
        seen = {
            time_dims(name.removeprefix(OWN), shard.tensors[name].shape, shard.tensors[MASK].shape[1])
            for shard in shards
            if name.startswith(OWN) and MASK in shard.tensors
        }
        found[name] = list(seen.pop()) if len(seen) == 1 else []
    return found


def _absent(folder: Path) -> str:
    return f"{folder} holds no recorded features. Run the recipe again to record them."


class FeatureShards:
    """Read features by example; shards are mapped into memory and checked with their first use.

    Args:
        folder: holds shards and index.

    Raises:
        AttarError: the folder holds no whole record of features.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / INDEX).is_file():
            raise AttarError(_absent(folder))
        index = Shard(folder / INDEX).check()
        self._folder = folder
        self._names, self._times = index.facts["shards"], index.facts["times"]
        self._index = {name: np.array(values) for name, values in index.tensors.items()}
        self._open: dict[int, Shard] = {}

    def read(self, keys: np.ndarray) -> dict[str, torch.Tensor]:
        """Return name -> ``(examples, ...)`` in the order of ``keys``, floats as float32; nothing for no example.

        Texts are padded to the longest of these examples; ``mask`` tells tokens from padding.

        Args:
            keys: ``(examples,)`` content keys.

        Raises:
            AttarError: an example was never recorded, or a shard is damaged.
        """
        places = self._places(keys)
        number, row = self._index["shard"][places], self._index["row"][places]
        longest = int(self._index["length"][places].max(initial=0))
        groups = [np.flatnonzero(number == one) for one in np.unique(number)]
        parts = [self._part(int(number[group[0]]), row[group], longest) for group in groups]
        if not parts:
            return {}
        back = torch.from_numpy(np.argsort(np.concatenate(groups), kind="stable"))
        return {name: _wide(name, tensor[back]) for name, tensor in joined(parts).items()}

    def _places(self, keys: np.ndarray) -> np.ndarray:
        """Return where in the index each example stands."""
        known = self._index[KEYS]
        inside = np.searchsorted(known, keys).clip(max=len(known) - 1)
        missing = int((known[inside] != keys).sum())
        if missing:
            raise AttarError(
                f"The features of {missing} examples were never recorded. Record the teacher on them first."
            )
        return inside

    def _part(self, number: int, rows: np.ndarray, longest: int) -> dict[str, torch.Tensor]:
        """Return some rows of a shard as they are stored, without the time that none of the examples asked has."""
        if number not in self._open:
            self._open[number] = Shard(self._folder / self._names[number]).check()
        found = {}
        for name, tensor in self._open[number].tensors.items():
            if name != KEYS:
                cut: Any = tuple(
                    slice(longest) if dim in self._times[name] else slice(None) for dim in range(tensor.ndim)
                )
                found[name.removeprefix(OWN)] = torch.from_numpy(tensor[cut][rows])
        return found


def _wide(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name == "mask":
        return tensor.bool()
    return tensor.float() if tensor.is_floating_point() else tensor
