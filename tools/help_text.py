"""Lay out a verb's ``--help`` text from its signature, so that no version of a library shows in it."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.models

VALUES = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True)
class Parameter:
    """Hold one argument or option: how it is written, what it means, whether it must be given."""

    label: str
    text: str
    option: bool
    required: bool


def lines(title: str, verb: Callable[..., Any] | None, width: int) -> Iterator[str]:
    """Yield the help of a verb, line by line.

    Args:
        title: the command, for example ``attar run``.
        verb: the function behind it.
        width: characters of a line.
    """
    if verb is None:
        raise ValueError(f"{title} has no function")
    found = list(parameters(verb))
    arguments = [one for one in found if not one.option]
    options = [one for one in found if one.option]
    shown = [one.label if one.required else f"[{one.label}]" for one in arguments]
    yield " ".join(["Usage:", title, *(["[OPTIONS]"] if options else []), *shown])
    yield ""
    text = " ".join((inspect.getdoc(verb) or "").split())
    yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")
    for heading, rows in (("Arguments", arguments), ("Options", options)):
        if rows:
            yield from ("", f"{heading}:")
        for one in rows:
            head = f"  {one.label:24}  "
            yield from textwrap.wrap(one.text, width, initial_indent=head, subsequent_indent=" " * 28)


def parameters(verb: Callable[..., Any]) -> Iterator[Parameter]:
    """Yield what a verb takes, in the order of its signature."""
    hints = typing.get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        kind, info = typing.get_args(hints[name])[:2]
        required = parameter.default is inspect.Parameter.empty
        text = f"{info.help or ''}{_ending(parameter.default, required)}"
        if isinstance(info, typer.models.ArgumentInfo):
            many = "..." if "list" in str(kind) else ""
            yield Parameter(f"{info.metavar or name.upper()}{many}", text, False, required)
        else:
            given = [info.default] if isinstance(info.default, str) else []
            flags = sorted([*given, *(info.param_decls or ())], key=len) or [f"--{name.replace('_', '-')}"]
            value = "" if kind is bool else f" {info.metavar or _value(kind)}"
            yield Parameter(", ".join(flags) + value, text, True, required)


def _ending(default: Any, required: bool) -> str:
    if required:
        return " [required]"
    return f" [default: {default}]" if default not in (None, False) and not isinstance(default, (list, tuple)) else ""


def _value(kind: Any) -> str:
    members = [member for member in (kind, *typing.get_args(kind)) if member in VALUES]
    return VALUES[members[0]] if members else "TEXT"
