"""``attar tune``: a better prompt for the teacher, or the proof that there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.options import AsJson, RecipeName, Sets, overrides, print_json


def tune(
    recipe: RecipeName,
    folder: Annotated[
        Path | None, typer.Option("--folder", "-f", help="The run's folder (default: runs/NAME).")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Find the prompt of a recipe's teacher, and prove it on held-out examples; the run then takes it from there."""
    from attar import api
    from attar.log import console
    from attar.pipeline.load import load_recipe
    from attar.pipeline.tuning import tune_loaded
    from attar.report.prompts import criterion, gain_line, left_out_line, outcome_line, search_cost
    from attar.report.tables import prompts_table
    from attar.settings import runs_folder

    parsed, base = load_recipe(recipe, overrides(sets))
    found = tune_loaded(parsed, base, folder or runs_folder() / parsed.name, api.write_prompts)
    if as_json:
        print_json(found.to_json())
        return
    out, summary = console(), {"prompt": {"teacher": found.facts}}
    out.print(prompts_table(summary, width=out.width))
    gain = gain_line(found.facts, criterion(summary))
    for line in (outcome_line(summary), gain, search_cost(found.facts), left_out_line(found.facts)):
        if line:
            out.print(line, markup=False)
    out.print(f"\nprompts {found.folder / 'prompts.md'}\nprompt  {found.folder / 'prompt.json'}", markup=False)
    print(found.prompt)
