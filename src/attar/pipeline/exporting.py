"""Export the model of a finished run in further formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe
from attar.pipeline.names import compressed
from attar.pipeline.student_prompts import exported_model
from attar.settings import cache_folder
from attar.sources import data as sources
from attar.stages.formats import Wanted, export_format
from attar.store.artifacts import Artifact, Store
from attar.store.lock import hold
from attar.store.runs import load_summary


def export_run(given: str, wanted: Wanted, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write a finished run's compressed student in a format; see `attar.stages.formats.export_format`.

    Args:
        given: the run's folder, or its name.
        wanted: the format.
        out: folder to write; ``exports/<format>`` in the run's folder by default.

    Returns:
        The folder, and what its ``export.json`` holds.

    Raises:
        AttarError: there is no such run, it is not finished, its model is no longer stored, or the export fails.
    """
    folder, summary = load_summary(given)
    recipe, base = load_recipe(str(folder))
    store, found = Store(cache_folder()), dict[str, Artifact]()
    stages = build(recipe, base)
    needed = {"data", compressed(stages), "export"} | ({"student_prompt"} & set(stages))
    for name in stages:
        if name in needed:
            if not store.has(name, stages[name].key):
                raise AttarError(
                    f"The model of the run {folder} is no longer in the cache {store.root}. Run it again: attar run "
                    f"{folder}"
                )
            found[name] = store.get(name, stages[name].key)
    target = out or folder / "exports" / wanted.to
    source = exported_model(found)
    with hold(folder / ".lock", f"the run {folder}"):
        facts = export_format(
            source, recipe.task, sources.load(found["data"].folder), wanted, target, _measured(summary)
        )
    return target, facts


def _measured(summary: dict[str, Any]) -> float | None:
    """Return what the run measured of the model before its bundle was made: accuracy, or perplexity."""
    rows = {row["name"]: row for row in summary["models"]}
    row = rows.get("compressed", {})
    value = (row.get("perplexity") or row.get("quality") or {}).get("value")
    return None if value is None else float(value)
