"""Keep a data set on disk and read it back, exactly: Parquet for texts, safetensors for images, JSON for facts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.examples import DataSet, Examples
from attar.errors import AttarError
from attar.optional import lazy
from attar.store.files import read_json, write_bytes, write_json

pyarrow: Any = lazy("pyarrow")
parquet: Any = lazy("pyarrow.parquet")
safetensors: Any = lazy("safetensors")
safetensors_numpy: Any = lazy("safetensors.numpy")

SCHEMA = 1
CARD = "data.json"
NAMES = ("train", "validation", "test", "spare")


def save(dataset: DataSet, folder: Path) -> None:
    """Write a data set into a folder.

    Args:
        dataset: the splits, with all their labels or targets.
        folder: where; made if it is missing. ``data.json`` is written last, so a folder that has it is whole.
    """
    kind = "images" if isinstance(dataset.train.inputs, np.ndarray) else "texts"
    parts = [name for name in NAMES if getattr(dataset, name) is not None]
    for name in parts:
        examples: Examples = getattr(dataset, name)
        if kind == "images":
            arrays = {"keys": examples.keys, "images": np.asarray(examples.inputs), "labels": examples.labels}
            arrays = {part: np.ascontiguousarray(array) for part, array in arrays.items()}
            write_bytes(folder / f"{name}.safetensors", safetensors_numpy.save(arrays))
        else:
            columns = {"key": examples.keys, "text": list(examples.inputs), "label": examples.labels}
            types = {"key": pyarrow.int64(), "text": pyarrow.large_string(), "label": pyarrow.int64()}
            if examples.targets is not None:
                columns["target"], types["target"] = list(examples.targets), pyarrow.large_string()
            table = pyarrow.table({part: pyarrow.array(v, types[part]) for part, v in columns.items()})
            sink = io.BytesIO()
            parquet.write_table(table, sink, compression="zstd")
            write_bytes(folder / f"{name}.parquet", sink.getvalue())
    card = {
        "schema": SCHEMA,
        "kind": kind,
        "labels": list(dataset.labels),
        "gold": sorted(dataset.gold),
        "parts": parts,
    }
    write_json(folder / CARD, {**card, "facts": dict(dataset.facts)})


def load(folder: Path) -> DataSet:
    """Read a data set that `save` wrote.

    Args:
        folder: where it lies.

    Raises:
        AttarError: it is missing, damaged, or of another version of attar.
    """
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        raise AttarError(f"{folder / CARD} is not of schema {SCHEMA}. Remove the folder and run again.")
    read = _images if card["kind"] == "images" else _texts
    parts = {name: read(folder, name) for name in card["parts"]}
    return DataSet(tuple(card["labels"]), gold=frozenset(card["gold"]), facts=card["facts"], **parts)


def _images(folder: Path, name: str) -> Examples:
    path = folder / f"{name}.safetensors"
    try:
        arrays = safetensors_numpy.load(path.read_bytes())
        return Examples(arrays["keys"], arrays["images"], arrays["labels"])
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error


def _texts(folder: Path, name: str) -> Examples:
    path = folder / f"{name}.parquet"
    try:
        table = parquet.read_table(path)
        keys, labels = (table.column(part).to_numpy().astype(np.int64) for part in ("key", "label"))
        targets = table.column("target").to_pylist() if "target" in table.column_names else None
        return Examples(keys, table.column("text").to_pylist(), labels, targets)
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AttarError:
    return AttarError(f"{path} cannot be read: {error}. Remove the folder {path.parent} and run again.")
