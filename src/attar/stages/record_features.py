"""Record what the teacher's layers give, beside its answers, in shards that survive a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import say
from attar.optional import lazy
from attar.store.files import remove
from attar.teachers.codecs.shard import Shard, write
from attar.teachers.feature_shards import OWN, FeatureShards, frozen, time_dims, write_index
from attar.teachers.recorded import INDEX

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

AGREE = 0.1
"""Most difference of a feature between record and live teacher, relative to the feature's size."""


@dataclass(frozen=True)
class FeatureWriter:
    """Write the features of shard after shard.

    Args:
        folder: where finished shards wait for the rest.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Tell whether a shard is written."""
        return (self.folder / name).exists()

    def write(self, name: str, rows: Rows, keys: np.ndarray) -> None:
        """Write a shard.

        Args:
            name: of its file.
            rows: the teacher's, with features in the order of ``keys``.
            keys: ``(examples,)`` content keys.

        Raises:
            AttarError: a number is too large for float16, or is none.
        """
        kept = frozen(rows.features, keys)
        facts = {
            "examples": len(keys),
            "bytes": sum(tensor.nbytes for name, tensor in kept.items() if name.startswith(OWN)),
            "error": {one: _error(tensor, kept[f"{OWN}{one}"]) for one, tensor in rows.features.items()},
        }
        write(self.folder / name, kept, facts)

    def finish(self, content: Path) -> dict[str, Any]:
        """Write the index, copy the record, say what it takes and what it lost, and return that.

        Args:
            content: folder that the finished record is copied to.

        Returns:
            ``names``, ``bytes_per_example``, and ``relative_error``: of each feature, the largest over examples of
            ‖recorded − live‖ / ‖live‖.
        """
        write_index(self.folder)
        remove(content)
        shutil.copytree(self.folder, content, ignore=shutil.ignore_patterns(".*"))
        parts = [Shard(path).facts for path in sorted(content.glob("*.safetensors")) if path.name != INDEX]
        names = sorted(parts[0]["error"])
        count = sum(part["examples"] for part in parts)
        size = sum(part["bytes"] for part in parts) / count
        worst = {name: float(f"{max(part['error'][name] for part in parts):.3g}") for name in names}
        say(f"  features: {count:,} examples, {size:,.0f} bytes an example; {_described(worst)}")
        return {"names": names, "bytes_per_example": round(size, 1), "relative_error": worst}

    def same(self, said: Rows, keys: np.ndarray, folder: Path) -> dict[str, Any]:
        """Compare a few live answers with the record, and return that as a check.

        Args:
            said: live rows with features.
            keys: ``(examples,)`` content keys, in their order.
            folder: the finished record.

        Raises:
            AttarError: they differ.
        """
        kept = FeatureShards(folder).read(keys)
        apart = {name: _apart(name, tensor, kept, said.features) for name, tensor in said.features.items()}
        name = max(apart, key=lambda one: apart[one])
        if apart[name] >= AGREE:
            raise AttarError(
                f"'{name}' of the live teacher and its record differ by {apart[name]:.3f} of its size; they must agree "
                f"to {AGREE}. Remove the folder {self.folder.parent} and run again."
            )
        seen = f"largest relative difference {apart[name]:.4f} ({name})"
        return {"name": "live and recorded features agree", "passed": True, "value": seen}


def _described(worst: Mapping[str, float]) -> str:
    name = max(worst, key=lambda one: worst[one])
    return f"largest relative error {worst[name]:.2g} ({name})"


def _error(tensor: torch.Tensor, kept: torch.Tensor) -> float:
    """Return the largest relative error of an example."""
    first, second = (one.detach().cpu().double().reshape(len(one), -1) for one in (tensor, kept))
    size = first.norm(dim=1)
    return float(((second - first).norm(dim=1) / torch.where(size > 0, size, 1.0)).max())


def _apart(
    name: str, live: torch.Tensor, kept: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor]
) -> float:
    """Return ‖kept − live‖ / ‖live‖ over all examples, without padding; infinity where shapes differ."""
    if name not in kept or kept[name].shape != live.shape:
        return float("inf")
    first, second = live.detach().cpu().double(), kept[name].double()
    mask = features.get("mask")
    for dim in () if mask is None else time_dims(name, live.shape, mask.shape[1]):
        spread = [len(live) if at == 0 else live.shape[dim] if at == dim else 1 for at in range(live.ndim)]
        first, second = (one * features["mask"].cpu().reshape(spread) for one in (first, second))
    size = float(first.norm())
    return float((second - first).norm()) / (size or 1.0)
