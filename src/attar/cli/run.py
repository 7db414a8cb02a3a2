"""``attar run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.options import AsJson, RecipeName, Sets, overrides, print_json


def run(
    recipe: RecipeName,
    folder: Annotated[
        Path | None, typer.Option("--folder", "-f", help="The run's folder (default: runs/NAME).")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from data to report; run it again after a kill, and it goes on where it was."""
    from attar import api
    from attar.log import console
    from attar.pipeline.run import run_recipe
    from attar.report.predict import predict_command
    from attar.report.tables import models_table, verdict_line
    from attar.report.words import headline

    result = run_recipe(recipe, folder, overrides(sets), api.write_report)
    summary = dict(result.summary)
    if as_json:
        print_json(summary)
        return
    out = console()
    out.print(models_table(summary, width=out.width))
    out.print(headline(summary), markup=False)
    out.print(verdict_line(summary), markup=False)
    out.print(f"\nreport  {result.folder / 'report.html'}\nbundle  {result.bundle}", markup=False)
    out.print(f"try     {predict_command(summary, str(result.folder))}", markup=False)
