"""Find runs and read their summaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.settings import runs_folder
from attar.store.files import read_json


def find_run(given: str) -> Path:
    """Return a run's folder by its path or its name under ``runs``.

    Raises:
        AttarError: there is none.
    """
    for folder in (Path(given).expanduser(), runs_folder() / given):
        if (folder / "summary.json").is_file() or (folder / "journal.jsonl").is_file():
            return folder
    known = [folder.name for folder in list_runs()]
    hint = (
        f" Runs here: {', '.join(known)}."
        if known
        else " Nothing was run here yet: attar run digits makes a first one."
    )
    raise AttarError(f"There is no run '{given}'.{hint}")


def load_summary(given: str) -> tuple[Path, dict[str, Any]]:
    """Return a run's folder and summary.

    Raises:
        AttarError: there is no such run, it is not finished, or its summary is of an unknown schema.
    """
    folder = find_run(given)
    path = folder / "summary.json"
    if not path.is_file():
        raise AttarError(f"The run {folder} is not finished. Run the same recipe again: it goes on where it was.")
    summary = read_json(path)
    if not isinstance(summary, dict) or summary.get("schema") != 1:
        raise AttarError(f"{path} is no summary that this version reads (schema 1). Run the recipe again.")
    return folder, summary


def list_runs() -> list[Path]:
    """Return the folders of all runs under ``runs``, finished or not."""
    root = runs_folder()
    return sorted(path.parent for path in root.glob("*/journal.jsonl")) if root.is_dir() else []
