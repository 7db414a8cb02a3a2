"""Read a source of data as it is: inputs with raw labels or target texts, before any cleaning."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from attar.errors import AttarError
from attar.optional import lazy
from attar.sources import images, reference
from attar.sources.data_settings import DataSettings
from attar.sources.reference import Reference
from attar.sources.tables import TableFormat, check_columns, column_names, read_table

datasets: Any = lazy("datasets")

SUFFIXES: dict[str, TableFormat] = {
    **{".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"},
    **{".parquet": "parquet", ".parquet.brotli": "parquet", ".parquet.gz": "parquet", ".parquet.zstd": "parquet"},
}
TABLES = ("csv", "tsv", "jsonl", "parquet")


@dataclass(frozen=True)
class Raw:
    """Hold examples as the source has them.

    Args:
        inputs: texts (anything that was in the column), or images uint8 ``(examples, channels, height, width)``.
        values: raw label values, or raw target texts, or None if the source has none.
        place: what to call the values in messages.
    """

    inputs: Sequence[Any] | np.ndarray
    values: Sequence[Any] | None
    place: str


def format_of(settings: DataSettings, ref: Reference) -> str:
    """Return how a source is written, from the recipe or from its name; nothing is fetched.

    Args:
        settings: the recipe's ``data``.
        ref: its source or test source.

    Raises:
        AttarError: the name does not tell.
    """
    if ref.kind == "sklearn":
        return "digits"
    if settings.format != "auto":
        return settings.format
    name = ref.inside or ref.name
    found = next((form for suffix, form in reversed(SUFFIXES.items()) if name.lower().endswith(suffix)), None)
    if found:
        return found
    if ref.kind == "hf" and ref.inside is None:
        return "hub"
    if ref.kind == "path" and os.path.isdir(name):
        return _folder_format(Path(name))
    if ref.kind == "pypi" and "." not in os.path.basename(name):
        return "images"
    raise AttarError(
        f"source '{ref.text}' does not tell by its name how it is written. Set format to one of csv, tsv, jsonl, "
        "parquet, images, idx, hub."
    )


def _folder_format(folder: Path) -> str:
    if images.is_idx(folder):
        return "idx"
    inner = folder / "data"  # where a hub's data set keeps its tables, as a rule
    names = [*os.listdir(folder), *(os.listdir(inner) if inner.is_dir() else ())]
    return "hub" if any(name.endswith(tuple(SUFFIXES)) for name in names) else "images"


def read_raw(settings: DataSettings, base: Path, cache: Path) -> tuple[Raw, Raw | None]:
    """Return the source's examples, and those of its official test set if it has one.

    Args:
        settings: the recipe's ``data``.
        base: the recipe's folder.
        cache: attar's cache.

    Raises:
        AttarError: a source is missing, damaged, or has not the columns that the recipe names.
    """
    ref = reference.parse(settings.source, base)
    source, own_test = _read_one(settings, ref, settings.sha256, cache, may_lack_label(settings))
    if settings.test_source is None:
        return source, own_test
    test, _ = _read_one(settings, reference.parse(settings.test_source, base), settings.test_sha256, cache, False)
    if isinstance(test.inputs, np.ndarray) and test.inputs.shape[1:] != np.shape(source.inputs)[1:]:
        raise AttarError(
            f"images of test_source are {test.inputs.shape[1:]} (channels, height, width), those of source "
            f"{np.shape(source.inputs)[1:]}. Set image_size and channels."
        )
    return source, test


def may_lack_label(settings: DataSettings) -> bool:
    """Tell whether the source needs no label or target column: gold is used of the official test set alone."""
    return settings.test_source is not None and set(settings.gold) <= {"test"}


def _read_one(
    settings: DataSettings, ref: Reference, sha256: str | None, cache: Path, may_lack: bool
) -> tuple[Raw, Raw | None]:
    form = format_of(settings, ref)
    check_keys(settings, form, ref.text)
    if form == "digits":
        mistakes = reference.check(ref, sha256)
        if mistakes:
            raise AttarError(mistakes[0])
        pixels, values = images.read_digits()
        return Raw(images.fit(pixels, settings.image_size, settings.channels), values, ref.text), None
    path = reference.fetch(ref, sha256, cache, "dataset")
    if (form in TABLES) != path.is_file():
        kind = "a file" if form in TABLES else "a folder"
        raise AttarError(f"source '{ref.text}' of format {form} must be {kind}, and {path} is not. Correct one.")
    if form == "images":
        return _class_folders(settings, path), None
    if form == "idx":
        return _idx(settings, path)
    if form == "hub":
        return _hub(settings, path)
    form = cast(TableFormat, form)
    if may_lack and _gold_column(settings) not in column_names(path, form):
        settings = settings.model_copy(update={"label": None, "target": None})
    table = read_table(path, form, _wanted(settings), settings.skip_rows)
    if not table.rows:
        raise AttarError(f"{path} has a header but no rows. Give a file with examples.")
    return _from_columns(settings, table.columns, path.parent, path.name), None


def check_keys(settings: DataSettings, form: str, text: str) -> None:
    """Refuse keys that a source of this format has no use for, and missing ones.

    Args:
        settings: the recipe's ``data``.
        form: how the source is written.
        text: the source as the recipe has it.

    Raises:
        AttarError: columns are named where there are none, or none is named where there are.
    """
    inputs = [name for name in ("text", "image") if getattr(settings, name) is not None]
    if form in (*TABLES, "hub") and len(inputs) != 1:
        raise AttarError(f"source '{text}' has columns: name either text or image, the one that holds the inputs.")
    named = [name for name in ("text", "image", "label", "target") if getattr(settings, name) is not None]
    if form not in (*TABLES, "hub") and named:
        raise AttarError(f"source '{text}' of format {form} has no columns. Leave out {named[0]}.")
    if settings.skip_rows and form not in ("csv", "tsv"):
        raise AttarError(f"source '{text}' of format {form} has no rows below a header. Leave out skip_rows.")
    if settings.text is not None and (settings.image_size is not None or settings.channels is not None):
        raise AttarError(f"source '{text}' gives texts. Leave out image_size and channels.")


def _gold_column(settings: DataSettings) -> str | None:
    return settings.label if settings.target is None else settings.target


def _wanted(settings: DataSettings) -> list[str]:
    return [name for name in (settings.text, settings.image, _gold_column(settings)) if name is not None]


def _from_columns(settings: DataSettings, columns: dict[str, list[Any]], folder: Path, source: str) -> Raw:
    column = _gold_column(settings)
    values = columns[column] if column is not None else None
    place = f"column '{column}' of {source}"
    if settings.text is not None:
        return Raw(columns[settings.text], values, place)
    found, names = images.column_images(columns[str(settings.image)], folder, settings.image_size)
    return Raw(images.stack(found, names, settings.channels), values, place)


def _class_folders(settings: DataSettings, folder: Path) -> Raw:
    files = images.class_folders(folder)
    found = [images.decode(path, str(path), settings.image_size) for path, _ in files]
    pixels = images.stack(found, [str(path) for path, _ in files], settings.channels)
    return Raw(pixels, [name for _, name in files], f"the class folders of {folder}")


def _idx(settings: DataSettings, folder: Path) -> tuple[Raw, Raw | None]:
    parts = [images.read_idx(folder, part) for part in ("source", "test")]
    raws = [
        part and Raw(images.fit(part[0], settings.image_size, settings.channels), part[1], f"the labels of {folder}")
        for part in parts
    ]
    if raws[0] is None:
        raise AttarError(f"{folder} has no IDX files of images and labels named *train*. Give the folder that has.")
    return raws[0], raws[1]


def _hub(settings: DataSettings, folder: Path) -> tuple[Raw, Raw | None]:
    wanted = _wanted(settings)
    with _quiet_datasets(folder), tempfile.TemporaryDirectory(prefix="attar-") as work:
        splits = datasets.load_dataset(str(folder), cache_dir=work, keep_in_memory=True)
        name = "train" if "train" in splits else next(iter(splits))
        return _hub_split(settings, folder, splits[name], wanted), (
            _hub_split(settings, folder, splits["test"], wanted) if name != "test" and "test" in splits else None
        )


def _hub_split(settings: DataSettings, folder: Path, split: Any, wanted: Sequence[str]) -> Raw:
    check_columns(folder, split.column_names, wanted)
    if settings.image is not None and isinstance(split.features[settings.image], datasets.Image):
        split = split.cast_column(settings.image, datasets.Image(decode=False))
    columns = {name: list(split[name]) for name in wanted}
    gold = _gold_column(settings)
    if gold is not None and isinstance(split.features[gold], datasets.ClassLabel):
        names = split.features[gold].names
        columns[gold] = [names[v] if v is not None and v >= 0 else None for v in columns[gold]]
    return _from_columns(settings, columns, folder, folder.name)


@contextmanager
def _quiet_datasets(folder: Path) -> Iterator[None]:
    bars, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise AttarError(
            f"{folder} cannot be read as a data set of a hub: {reason}. Name one file of it after #, or set format."
        ) from error
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
