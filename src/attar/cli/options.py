"""Share options between verbs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import yaml

from attar.errors import AttarError

AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON on stdout.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Lay a key over the recipe: --set distill.epochs=1"),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a ready recipe.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under runs/.")]


def overrides(given: Sequence[str] | None) -> dict[str, Any]:
    """Return ``KEY=VALUE`` options as dotted path -> value; values are read as YAML.

    Raises:
        AttarError: an option has no ``=``, or its value is not YAML.

    Example:
        >>> overrides(["distill.epochs=1", "compress=[vocabulary]"])
        {'distill.epochs': 1, 'compress': ['vocabulary']}
    """
    found: dict[str, Any] = {}
    for option in given or ():
        key, mark, value = option.partition("=")
        if not mark or not key.strip():
            raise AttarError(f"--set takes KEY=VALUE, got {option!r}. Example: --set distill.epochs=1")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise AttarError(f"the value of --set {key.strip()} is not YAML, got {value!r}.") from error
    return found


def print_json(value: Any) -> None:
    """Print data for programs on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=1))
