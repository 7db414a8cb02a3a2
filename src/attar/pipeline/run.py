"""Run a recipe from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline.check import check
from attar.pipeline.execute import execute
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe
from attar.pipeline.recipe import Recipe
from attar.pipeline.summary import summarize
from attar.settings import runs_folder
from attar.store.files import write_json
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


def run_recipe(
    given: str, folder: Path | None, overrides: Mapping[str, Any] | None, report: Report | None
) -> RunResult:
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
