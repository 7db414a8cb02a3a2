"""``attar copy``: a ready recipe to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.errors import AttarError, did_you_mean


def copy(
    name: Annotated[str, typer.Argument(help="The ready recipe; see attar list --recipes.")],
    to: Annotated[Path | None, typer.Argument(help="The file to write (default: NAME.yaml here).")] = None,
) -> None:
    """Copy a ready recipe, to be edited."""
    from attar.log import say
    from attar.pipeline.load import ready_recipes

    ready = ready_recipes()
    if name not in ready:
        raise AttarError(f"There is no ready recipe '{name}'.{did_you_mean(name, ready)}")
    write_new(to or Path(f"{name}.yaml"), ready[name])
    say(f"wrote {to or name + '.yaml'}; edit it, then: attar check {to or name + '.yaml'}")


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet.

    Raises:
        AttarError: it is there.
    """
    from attar.store.files import write_bytes

    if path.exists():
        raise AttarError(f"{path} exists already. Give another name, or remove it first.")
    write_bytes(path, text.encode("utf-8"))
