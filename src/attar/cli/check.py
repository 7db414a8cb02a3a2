"""``attar check``: every mistake at once, and the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.cli.options import AsJson, RecipeName, Sets, overrides, print_json

if TYPE_CHECKING:
    from attar.pipeline.check import Plan


def check(recipe: RecipeName, sets: Sets = None, as_json: AsJson = False) -> None:
    """Find every mistake of a recipe and plan its run: stages, memory, minutes, bytes, calls. Loads no weights."""
    from attar.pipeline.check import check as check_recipe
    from attar.pipeline.load import load_recipe

    parsed, base = load_recipe(recipe, overrides(sets))
    plan = check_recipe(parsed, base)
    if as_json:
        print_json(plan.to_json())
    else:
        _print(plan)


def _print(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from attar.report import formats

    table = Table("stage", "what", "state", "predicted", box=None, pad_edge=False, header_style="bold")
    for stage in plan.stages:
        seconds = "" if stage.stored else "?" if stage.seconds is None else formats.seconds_text(stage.seconds)
        table.add_row(stage.name, stage.title, "stored" if stage.stored else "to do", seconds)
    out = Console(highlight=False)
    out.print(f"{plan.name}: no mistakes found\n", markup=False)
    out.print(table)
    unknown = "known after the first fetch"
    rows = (
        ("minutes", unknown if plan.seconds is None else f"{plan.seconds / 60:.1f}"),
        ("peak memory", unknown if plan.ram_bytes is None else formats.bytes_text(plan.ram_bytes)),
        ("disk", unknown if plan.disk_bytes is None else formats.bytes_text(plan.disk_bytes)),
        ("download", unknown if plan.download_bytes is None else formats.bytes_text(plan.download_bytes)),
        ("teacher calls", "unknown" if plan.teacher_calls is None else f"{plan.teacher_calls:,}"),
    )
    out.print()
    for name, value in rows:
        out.print(f"{name:14}{value}", markup=False)
    for note in plan.notes:
        out.print(f"  {note}", markup=False, style="dim")
