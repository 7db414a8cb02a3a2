"""``attar list``: runs, and what recipes may name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attar.cli.options import AsJson, print_json


def list_(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the ready recipes.")] = False,
    names: Annotated[bool, typer.Option("--names", help="List the algorithms that recipes may name.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs under runs/, the ready recipes, or the names of the catalogue."""
    if recipes:
        _two_columns(_recipes(), as_json)
    elif names:
        _names(as_json)
    else:
        _runs(as_json)


def _recipes() -> dict[str, str]:
    from attar.pipeline.load import ready_recipes

    return {name: text.splitlines()[0].lstrip("# ") for name, text in ready_recipes().items()}


def _two_columns(rows: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    for name, text in rows.items():
        print(f"{name:16}{text}")


def _names(as_json: bool) -> None:
    from attar import catalog

    found = {noun: sorted(catalog.table(noun)) for noun in catalog.TABLES}
    if as_json:
        print_json(found)
        return
    for noun, entries in found.items():
        print(f"{noun:12}{', '.join(entries)}")


def _runs(as_json: bool) -> None:
    from rich.console import Console

    from attar.log import say
    from attar.report.tables import runs_table
    from attar.store.files import read_json
    from attar.store.runs import list_runs

    summaries: list[dict[str, Any]] = []
    for folder in list_runs():
        path = folder / "summary.json"
        finished = path.is_file()
        summaries.append(read_json(path) if finished else {"name": folder.name})
        if not finished:
            say(f"{folder} is not finished; run its recipe again and it goes on where it was")
    if as_json:
        print_json(summaries)
    elif summaries:
        out = Console(highlight=False)
        out.print(runs_table(summaries, width=out.width))
    else:
        say("nothing was run here yet; a first one: attar run digits")
