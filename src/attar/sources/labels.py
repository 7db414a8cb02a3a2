"""Turn raw label values into classes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.core.examples import UNKNOWN
from attar.errors import AttarError
from attar.sources.near import near

OTHER = -2  # the row's value belongs to no class of the recipe: the row is dropped
MANY = 1000  # distinct values; more are no classes but numbers or texts
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


@dataclass(frozen=True)
class Classes:
    """Hold the classes of a data set.

    Args:
        names: in order; a label is a place in it.
        places: canonical raw value -> place of its class.
    """

    names: tuple[str, ...]
    places: Mapping[str, int]

    def index(self, values: Sequence[Any]) -> np.ndarray:
        """Return the label of each raw value ``(rows,)``: a place, `UNKNOWN` where there is no value, or `OTHER`."""
        found = (canonical(value) for value in values)
        return np.array([UNKNOWN if v is None else self.places.get(v, OTHER) for v in found], dtype=np.int64)


def canonical(value: Any) -> str | None:
    """Return a raw value as text, so that 1, 1.0, "1" and " 1 " are one; None where there is no value.

    Example:
        >>> canonical(1), canonical(1.0), canonical(" 1.0"), canonical(True), canonical("")
        ('1', '1', '1', 'true', None)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    if NUMBER.fullmatch(text) and "." in text:
        whole, _, rest = text.partition(".")
        rest = rest.rstrip("0")
        text = f"{whole}.{rest}" if rest else whole
    return text or None


def choose(given: Mapping[str, Sequence[Any]] | Sequence[Any] | None, values: Sequence[Any], column: str) -> Classes:
    """Return the classes: those the recipe gives, or else every value found.

    Args:
        given: the recipe's ``labels``.
        values: raw values of the source; the recipe's are compared with them, if there are any.
        column: what holds them, for messages.

    Raises:
        AttarError: a value of the recipe occurs nowhere, or fewer than 2 or more than 1000 classes are found.

    Example:
        >>> choose({"bad": [1, 2], "good": [5]}, ["5.0", 1, 2], "stars").index([5, "2", 3, None]).tolist()
        [1, 0, -2, -1]
    """
    counts = Counter(v for v in map(canonical, values) if v is not None)
    if given is None:
        return _every_value(counts, column)
    if isinstance(given, Mapping):
        groups = {str(name): [canonical(v) or "" for v in group] for name, group in given.items()}
    else:
        groups = {canonical(value) or "": [canonical(value) or ""] for value in given}
    unmatched = [value for group in groups.values() for value in group if counts and value not in counts]
    if unmatched:
        raise AttarError(
            f"labels name the value '{unmatched[0]}', which occurs nowhere in {column}."
            f"{near(unmatched[0], counts, 'The values are')} Correct it or leave it out."
        )
    return Classes(tuple(groups), {v: i for i, group in enumerate(groups.values()) for v in group})


def _every_value(counts: Counter[str], column: str) -> Classes:
    if len(counts) > MANY:
        raise AttarError(
            f"{column} has {len(counts)} different values, too many for classes. Name the column that holds the "
            "classes, or list those to keep in labels."
        )
    if len(counts) < 2:
        found = f"only '{next(iter(counts))}'" if counts else "no value"
        raise AttarError(f"{column} holds {found}, and at least 2 classes are needed. Name another column.")
    numbers = all(NUMBER.fullmatch(value) for value in counts)
    names = sorted(counts, key=float) if numbers else sorted(counts)
    return Classes(tuple(names), {name: place for place, name in enumerate(names)})
