"""Turn a settings class into the rows of a table: key, type, default, range, meaning."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PLAIN = {str: "text", bool: "true or false", int: "whole number", float: "number", type(None): "nothing", Any: "any"}
BOUNDS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings classes that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def type_words(annotation: Any) -> str:
    """Return a type in words.

    Example:
        >>> type_words(int | tuple[int, ...] | None)
        'whole number, or list of whole numbers'
    """
    if annotation in PLAIN:
        return PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin in (Union, types.UnionType):
        return _union([argument for argument in arguments if argument is not type(None)])
    return _generic(origin, arguments)


def _generic(origin: Any, arguments: tuple[Any, ...]) -> str:
    if origin is Literal:
        return ", ".join(f"`{choice if isinstance(choice, str) else json.dumps(choice)}`" for choice in arguments)
    if origin in (tuple, list):
        return f"list of {_plural(type_words(arguments[0]))}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {type_words(arguments[0])} to {type_words(arguments[1])}"
    return "keys, below"


def _union(members: list[Any]) -> str:
    words = list(dict.fromkeys(type_words(member) for member in members))
    if {"text", "true or false", "whole number", "number"} <= set(words):
        return "value"
    return ", or ".join(words) or "nothing"


def _plural(words: str) -> str:
    if words.startswith(("`", "list")) or words == "keys, below":
        return {"keys, below": "entries, below"}.get(words, words)
    return ", or ".join(f"{word}s" if not word.endswith("s") else word for word in words.split(", or "))


def range_words(field: FieldInfo) -> str:
    """Return the range of a field in signs, ``""`` where every value of its type will do."""
    found = []
    for name, sign in BOUNDS:
        found += [f"{sign} {getattr(rule, name)}" for rule in field.metadata if getattr(rule, name, None) is not None]
    for name, words in (("min_length", "at least {} long"), ("max_length", "at most {} long")):
        found += [words.format(getattr(rule, name)) for rule in field.metadata if getattr(rule, name, None) is not None]
    found += [f"matches `{rule.pattern}`" for rule in field.metadata if getattr(rule, "pattern", None)]
    return ", ".join(found)


def default_words(field: FieldInfo) -> str:
    """Return the default of a field, **required** where it has none."""
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if value is None:
        return "–"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(_plain(value), ensure_ascii=False)}`"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def table(model: type[BaseModel]) -> list[str]:
    """Return the lines of a Markdown table with one row for each key of a settings class."""
    lines = ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", type_words(field.annotation), default_words(field), range_words(field), meaning(field))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def meaning(field: FieldInfo) -> str:
    """Return a field's description as a phrase: no capital before it and no period after it.

    Raises:
        ValueError: the field has no description.
    """
    if not field.description:
        raise ValueError(f"a key without a description: {field!r}")
    text = field.description.strip()
    word = text.split()[0]
    text = text[0].lower() + text[1:] if word[1:].islower() or len(word) == 1 else text
    return text if ". " in text else text.removesuffix(".")
