"""Read a recipe's data: from a source to clean, disjoint, stratified splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from attar.core.examples import UNKNOWN, DataSet, Examples
from attar.errors import AttarError
from attar.sources import reference
from attar.sources.clean import Cleaned, Gold, clean, gold_targets, without
from attar.sources.data_settings import DataSettings, combinations
from attar.sources.labels import Classes, canonical, choose
from attar.sources.raw import TABLES, Raw, check_keys, format_of, may_lack_label, read_raw
from attar.sources.reference import Reference
from attar.sources.saved import load, save
from attar.sources.splits import Sizes, split
from attar.sources.tables import TableFormat, check_columns, column_names, read_table
from attar.store.artifacts import make_key
from attar.store.files import sha256_file

__all__ = ["DataSettings", "fingerprint", "load", "quick_check", "read", "save"]


def read(settings: DataSettings, base: Path, cache: Path, seed: int) -> DataSet:
    """Return the splits of a recipe's data.

    Args:
        settings: the recipe's ``data``.
        base: the folder that relative paths start from: the recipe's.
        cache: attar's cache, for sources that are fetched.
        seed: the recipe's seed; with the content it alone decides who is in which split.

    Returns:
        Splits without duplicates within or between them; ``facts`` says what was read and dropped.

    Raises:
        AttarError: the source is missing or damaged, a column or a value is not there, or a split would be empty.
    """
    mistakes = combinations(settings)
    if mistakes:
        raise AttarError(mistakes[0])
    raw, raw_test = read_raw(settings, base, cache)
    classes = _classes(settings, raw, raw_test)
    keep_unknown = "train" not in settings.gold and not settings.balance
    source = _cleaned(settings, raw, classes, keep_unknown)
    pool, official, shared, shared_conflicts = source.examples, None, 0, 0
    facts: dict[str, Any] = {"source": settings.source, "rows": len(raw.inputs), "dropped": dict(source.dropped)}
    if raw_test is not None:
        test = _cleaned(settings, raw_test, classes, keep_unknown=False)
        official = test.examples
        pool, shared, shared_conflicts = without(pool, official)
        facts |= {
            "test_source": settings.test_source or f"the test set of {settings.source}",
            "test_rows": len(raw_test.inputs),
        }
        facts |= {"test_dropped": dict(test.dropped), "test_conflicts": test.conflicts}
    facts["dropped"]["also_in_test"] = shared
    what = "labels" if settings.target is None else "targets"
    facts |= {f"conflicting_{what}": source.conflicts + shared_conflicts, "shortened": source.shortened}
    if settings.target is not None:
        facts["shortened_targets"] = source.shortened_targets
    _check_left(pool, classes, settings, facts)
    _check_targets(pool, settings, {"test"} if official is not None else set())
    sizes = Sizes(settings.train, settings.validation, settings.test, settings.balance)
    found = split(pool, official, classes.names, sizes, seed)
    facts["counts"] = {name: _counts(getattr(found, name), classes) for name in ("train", "validation", "test")}
    splits = (found.train, found.validation, found.test)
    return DataSet(classes.names, *splits, frozenset(settings.gold), facts, found.spare if len(found.spare) else None)


def _classes(settings: DataSettings, raw: Raw, raw_test: Raw | None) -> Classes:
    if settings.target is not None:
        return Classes((), {})
    unlabeled = all(canonical(value) is None for value in raw.values or [])
    chosen = raw_test if unlabeled and raw_test is not None else raw
    classes = choose(settings.labels, chosen.values or [], chosen.place)
    if settings.labels is None and raw_test is not None:
        known = {canonical(value) for value in raw_test.values or []} - {None}
        strange = sorted(str(value) for value in known if value not in classes.places)
        if strange:
            raise AttarError(
                f"the test set has the label '{strange[0]}', which {raw.place} has not. List the classes in labels; "
                "rows of others are dropped."
            )
    return classes


def _cleaned(settings: DataSettings, raw: Raw, classes: Classes, keep_unknown: bool) -> Cleaned:
    if settings.target is not None:
        gold = gold_targets(raw, settings.max_target_characters)
    elif raw.values is None:
        gold = Gold(np.full(len(raw.inputs), UNKNOWN, np.int64))
    else:
        gold = Gold(classes.index(raw.values))
    return clean(raw, gold, settings.max_characters, keep_unknown or raw.values is None)


def _check_left(pool: Examples, classes: Classes, settings: DataSettings, facts: dict[str, Any]) -> None:
    dropped = ", ".join(f"{reason} {count}" for reason, count in facts["dropped"].items() if count) or "nothing"
    if not len(pool):
        raise AttarError(
            f"no example of source '{settings.source}' is left of {facts['rows']} rows; dropped: {dropped}. Look at "
            "the columns that text, image, label and target name."
        )
    missing = [name for place, name in enumerate(classes.names) if not (pool.labels == place).any()]
    if missing and (pool.labels != UNKNOWN).any():
        raise AttarError(
            f"class '{missing[0]}' has no example left in source '{settings.source}'; dropped: {dropped}. Leave the "
            "class out of labels, or give data that has it."
        )


def _check_targets(pool: Examples, settings: DataSettings, elsewhere: set[str]) -> None:
    wanted = [name for name in settings.gold if name not in elsewhere]
    if pool.targets is not None and wanted and not any(pool.targets):
        raise AttarError(
            f"column '{settings.target}' of source '{settings.source}' holds no text, and gold names {wanted[0]}. Name "
            "another target, or leave the split out of gold."
        )


def _counts(examples: Examples, classes: Classes) -> dict[str, int]:
    if examples.targets is not None:
        without_target = sum(not text for text in examples.targets)
        return {"texts": len(examples), **({"without_target": without_target} if without_target else {})}
    counts = {name: int((examples.labels == place).sum()) for place, name in enumerate(classes.names)}
    unknown = int((examples.labels == UNKNOWN).sum())
    return {**counts, "(unknown)": unknown} if unknown else counts


def _references(settings: DataSettings, base: Path) -> list[tuple[Reference, str | None]]:
    pairs = [(settings.source, settings.sha256), (settings.test_source, settings.test_sha256)]
    return [(reference.parse(text, base), sha256) for text, sha256 in pairs if text is not None]


def fingerprint(settings: DataSettings, base: Path) -> str:
    """Return the identity of the content of a recipe's data, without reading examples.

    Images that a local table names by path are part of the content.

    Args:
        settings: the recipe's ``data``.
        base: the recipe's folder.

    Raises:
        AttarError: a source is missing, or its checksum differs.
    """
    parts = []
    for ref, sha256 in _references(settings, base):
        parts.append(reference.fingerprint(ref, sha256, "dataset"))
        form = format_of(settings, ref)
        if settings.image is not None and ref.kind == "path" and form in TABLES:
            parts += _named_images(Path(ref.name), cast(TableFormat, form), settings)
    return make_key(parts=parts)


def _named_images(path: Path, form: TableFormat, settings: DataSettings) -> Sequence[str]:
    values = read_table(path, form, [str(settings.image)], settings.skip_rows).columns[str(settings.image)]
    files = [path.parent / value for value in values if isinstance(value, str) and value]
    return [sha256_file(file) if file.is_file() else "missing" for file in files]


def quick_check(settings: DataSettings, base: Path) -> list[str]:
    """Return the mistakes that show without a network and without reading examples.

    Args:
        settings: the recipe's ``data``.
        base: the recipe's folder.

    Returns:
        Messages, for `attar check`; empty when nothing is wrong.
    """
    found = combinations(settings)
    try:
        references = _references(settings, base)
    except AttarError as error:
        return [*found, str(error)]
    for place, (ref, sha256) in enumerate(references):
        mistakes = reference.check(ref, sha256)
        found += mistakes
        if not mistakes:
            found += _check_source(settings, ref, may_lack_label(settings) and place == 0)
    return found


def _check_source(settings: DataSettings, ref: Reference, may_lack: bool) -> list[str]:
    try:
        form = format_of(settings, ref)
        check_keys(settings, form, ref.text)
        if ref.kind != "path" or form not in TABLES:
            return []
        if os.path.isdir(ref.name):
            return [f"{ref.name} is a folder, and format {form} reads a file. Give the file."]
        named = (settings.text or settings.image, settings.label, settings.target)
        wanted = [name for name in named if name is not None]
        have = column_names(Path(ref.name), cast(TableFormat, form))
        optional = {settings.label, settings.target} if may_lack else set()
        check_columns(Path(ref.name), have, [name for name in wanted if name in have or name not in optional])
    except AttarError as error:
        return [str(error)]
    return []
