"""Run a recipe from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.pipeline.check import check
from attar.pipeline.execute import execute
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe
from attar.pipeline.recipe import Recipe
from attar.pipeline.summary import summarize
from attar.settings import runs_folder
from attar.store.files import read_json, write_json
from attar.store.journal import Journal


@dataclass(frozen=True)
class RunResult:
    """Hold a finished run.

    Args:
        folder: its folder, with bundle, report and card.
        summary: the content of its ``summary.json``.
    """

    folder: Path
    summary: Mapping[str, Any]

    @property
    def bundle(self) -> Path:
        """Return the folder of the exported bundle."""
        return self.folder / "bundle"


Report = Callable[[Mapping[str, Any], Path], None]


def run_recipe(given: str, folder: Path | None, overrides: Mapping[str, Any] | None, report: Report | None) -> RunResult:
    """Run a recipe; the same call goes on where a killed one stopped.

    Args:
        given: path of a recipe, name of a ready one, or a run's folder.
        folder: the run's folder; ``runs/<name>`` by default.
        overrides: dotted path -> value, laid over the recipe.
        report: writes report and card into the run's folder.

    Raises:
        AttarError: a mistake in the recipe, the data or the models.
    """
    recipe, base = load_recipe(given, overrides)
    return run_loaded(recipe, base, folder or runs_folder() / recipe.name, report)


def run_loaded(recipe: Recipe, base: Path, folder: Path, report: Report | None) -> RunResult:
    """Run a recipe that was read already; see `run_recipe`."""
    check(recipe, base)
    done = execute(recipe, base, folder)
    summary = summarize(recipe, build(recipe, base), done, folder)
    if report is not None:
        report(summary, folder)
    write_json(folder / "summary.json", summary)
    Journal(folder / "journal.jsonl").add("run-done")
    return RunResult(folder, summary)


def find_run(given: str) -> Path:
    """Return a run's folder by its path or its name under ``runs``.

    Raises:
        AttarError: there is none.
    """
    for folder in (Path(given).expanduser(), runs_folder() / given):
        if (folder / "summary.json").is_file() or (folder / "journal.jsonl").is_file():
            return folder
    known = [folder.name for folder in list_runs()]
    hint = f" Runs here: {', '.join(known)}." if known else " Nothing was run here yet: attar run digits makes a first one."
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
