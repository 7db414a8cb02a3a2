"""The verbs as functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.store.files import write_bytes

if TYPE_CHECKING:
    from attar.exporters.bundle import Bundle
    from attar.exporters.writing_bundle import WritingBundle
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


def load(run_or_bundle: str | Path, threads: int = 0) -> Bundle | WritingBundle:
    """Open an exported bundle with onnxruntime alone: one that answers with labels, or one that writes.

    Args:
        run_or_bundle: a run's folder or name, or a bundle's folder.
        threads: threads of the runtime; 0 leaves the choice to it.

    Example:
        >>> load("reviews").answer(["Fits perfectly, I love it."])[0].label  # doctest: +SKIP
        'positive'
        >>> load("titles").write(["The zip broke after a week."])[0]         # doctest: +SKIP
        'Poor quality'
    """
    from attar.exporters.bundle import CARD, Bundle, read_card
    from attar.exporters.writing_bundle import WritingBundle, writes_from_onnx
    from attar.store.runs import find_run

    given = Path(run_or_bundle)
    folder = given if (given / CARD).is_file() else find_run(str(run_or_bundle)) / "bundle"
    return (WritingBundle if writes_from_onnx(read_card(folder)) else Bundle)(folder, threads)


def export(run_name: str | Path, to: str, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Export a finished run's model in a further format, and compare the files with what was measured.

    Args:
        run_name: the run's folder, or its name.
        to: the format: ``hf``, ``onnx``, ``gguf``, ``openvino``, ``executorch``.
        out: folder to write; ``exports/<format>`` in the run's folder by default.
        settings: ``precision``, ``tolerance``, ``examples``, ``threads``: see `attar.stages.formats.Wanted`.

    Returns:
        What ``export.json`` holds.

    Raises:
        AttarError: the format does not fit, or the files answer otherwise than the model; then nothing new is left.

    Example:
        >>> export("titles", "gguf", precision="q8_0")["format"]         # doctest: +SKIP
        'gguf'
    """
    from attar.pipeline.exporting import export_run
    from attar.stages.formats import Wanted

    return export_run(str(run_name), Wanted(to, **settings), Path(out) if out else None)[1]


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
