"""``attar compare``: two runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from attar.cli.options import AsJson, print_json
from attar.errors import AttarError


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another run.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs; what was measured under different conditions is not compared, and says why."""
    from dataclasses import asdict

    from rich.console import Console

    from attar.report.compare import compare_rows
    from attar.report.tables import compare_table
    from attar.store.runs import load_summary

    one, other = load_summary(first)[1], load_summary(second)[1]
    if one.get("task") != other.get("task"):
        raise AttarError(
            f"Runs of different tasks cannot be compared: {first} is {one.get('task')}, {second} is "
            f"{other.get('task')}. Give two runs of one task."
        )
    if as_json:
        print_json(asdict(compare_rows(one, other)))
    else:
        Console(highlight=False).print(compare_table(one, other))
