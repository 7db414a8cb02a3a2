"""Gather the verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from attar import __version__
from attar.cli import check, compare, copy, export, graph, init, predict, run, runs, show, tune

app = typer.Typer(
    name="attar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take a large model that does a task and return the smallest model that still does it, with the proof.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"attar {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a verb."""


app.command("run")(run.run)
app.command("tune")(tune.tune)
app.command("check")(check.check)
app.command("init")(init.init)
app.command("copy")(copy.copy)
app.command("graph")(graph.graph)
app.command("list")(runs.list_)
app.command("show")(show.show)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("export")(export.export)
