"""The verbs as functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.store.files import write_bytes

if TYPE_CHECKING:
    from attar.exporters.bundle import Bundle
    from attar.pipeline.check import Plan
    from attar.pipeline.recipe import Recipe
    from attar.pipeline.run import RunResult
    from attar.pipeline.tuning import TuneResult


def run(recipe: str | Path | Mapping[str, Any], folder: str | Path | None = None, **overrides: Any) -> RunResult:
    """Run a recipe from data to report; the same call goes on where a killed one stopped.

    Args:
        recipe: path of a recipe, name of a ready one (``"digits"``), or the recipe itself as a mapping.
        folder: the run's folder; ``runs/<name>`` by default.
        overrides: keys laid over the recipe, with ``__`` for a dot: ``distill__epochs=1``.

    Returns:
        The run's folder and summary.

    Raises:
        AttarError: a mistake in the recipe, the data or the models; the message says what to do.

    Example:
        >>> run("digits", distill__epochs=1)                             # doctest: +SKIP
    """
    from attar.pipeline.run import run_loaded
    from attar.settings import runs_folder

    parsed, base = _parsed(recipe, overrides)
    return run_loaded(parsed, base, Path(folder) if folder else runs_folder() / parsed.name, write_report)


def tune(recipe: str | Path | Mapping[str, Any], folder: str | Path | None = None, **overrides: Any) -> TuneResult:
    """Find the prompt of a recipe's teacher; the same call goes on where a killed one stopped.

    A run of the recipe takes the prompt from the store.

    Args:
        recipe: as in `run`.
        folder: the run's folder; ``runs/<name>`` by default. It gets ``prompt.json`` and ``prompts.md``.
        overrides: as in `run`.

    Returns:
        The prompt to use, the recipe's own, and what was tried, gained and spent.

    Raises:
        AttarError: the teacher reads no prompt that can be searched for, or there is another mistake.

    Example:
        >>> print(tune("reviews", prompt__teacher__generations=2).prompt)  # doctest: +SKIP
    """
    from attar.pipeline.tuning import tune_loaded
    from attar.settings import runs_folder

    parsed, base = _parsed(recipe, overrides)
    return tune_loaded(parsed, base, Path(folder) if folder else runs_folder() / parsed.name, write_prompts)


def _parsed(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[Recipe, Path]:
    from attar.pipeline.load import lay, load_recipe, validate

    laid = {key.replace("__", "."): value for key, value in overrides.items()}
    if isinstance(recipe, Mapping):
        return validate(lay(copy.deepcopy(dict(recipe)), laid), "the recipe"), Path.cwd()
    return load_recipe(str(recipe), laid)


def check(recipe: str | Path, **overrides: Any) -> Plan:
    """Find every mistake of a recipe at once and plan its run; loads no weights.

    Args:
        recipe: path of a recipe, or name of a ready one.
        overrides: as in `run`.

    Raises:
        RecipeError: with all mistakes.

    Example:
        >>> [stage.name for stage in check("digits").stages][:2]
        ['data', 'teacher']
    """
    from attar.pipeline.check import check as check_recipe
    from attar.pipeline.load import load_recipe

    parsed, base = load_recipe(str(recipe), {key.replace("__", "."): value for key, value in overrides.items()})
    return check_recipe(parsed, base)


def load(run_or_bundle: str | Path, threads: int = 0) -> Bundle:
    """Open an exported bundle with onnxruntime alone.

    Args:
        run_or_bundle: a run's folder or name, or a bundle's folder.
        threads: threads of the runtime; 0 leaves the choice to it.

    Example:
        >>> load("reviews").answer(["Fits perfectly, I love it."])[0].label  # doctest: +SKIP
        'positive'
    """
    from attar.exporters.bundle import CARD, Bundle
    from attar.store.runs import find_run

    folder = Path(run_or_bundle)
    return Bundle(folder if (folder / CARD).is_file() else find_run(str(run_or_bundle)) / "bundle", threads)


def show(run_name: str | Path) -> dict[str, Any]:
    """Return a run's summary (the content of its ``summary.json``)."""
    from attar.store.runs import load_summary

    return load_summary(str(run_name))[1]


def compare(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Return two runs' figures side by side; what was measured under different conditions is not compared."""
    from dataclasses import asdict

    from attar.report.compare import compare_rows

    return asdict(compare_rows(show(first), show(second)))


def write_report(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.html`` and the model card ``README.md`` into a run's folder."""
    from attar.report import card, html

    html.write(dict(summary), folder / "report.html")
    write_bytes(folder / "README.md", card.card(dict(summary)).encode("utf-8"))


def write_prompts(found: TuneResult) -> None:
    """Write ``prompts.md``, the page on a prompt that was found and on all that were tried, into the run's folder."""
    from attar.report.prompt_card import prompt_card

    write_bytes(found.folder / "prompts.md", prompt_card(found.to_json(), found.folder.name).encode("utf-8"))
