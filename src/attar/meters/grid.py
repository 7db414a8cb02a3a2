"""Choose what a model is timed on: batches of texts of a given length, or of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from attar.settings import Settings


class GridSettings(Settings):
    """Set the points of batch x length at which models are timed.

    Example:
        >>> list(GridSettings(batch=(1, 8), length=(16,)).points(texts=True))
        [(1, 16), (8, 16)]
    """

    batch: tuple[int, ...] = Field((1, 8), description="examples that are answered at once")
    length: tuple[int, ...] = Field((16, 64, 128), description="tokens of a text, a prompt around it not counted")
    rounds: int = Field(10, ge=3, le=1000, description="how often each point is timed, models taking turns")

    @field_validator("batch", "length")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(one < 1 for one in value):
            raise ValueError(f"must be whole numbers of 1 or more, got {list(value)}")
        return tuple(sorted(set(value)))

    def points(self, texts: bool) -> Iterator[tuple[int, int]]:
        """Yield batch and length of each point; images have no length, it is 1."""
        for length in self.length if texts else (1,):
            yield from ((batch, length) for batch in self.batch)


def cut(text: str, length: int, count: Callable[[str], int]) -> str | None:
    """Return the shortest beginning of a text that a model reads as so many tokens.

    A character that is several tokens may bring one or two more than wanted.

    Args:
        text: long enough.
        length: tokens wanted.
        count: returns how many tokens the model reads of a text; what it cannot read any more, it does not count.

    Returns:
        The beginning; None where the model never reads so many.

    Example:
        >>> cut("a b c d e", 3, lambda text: len(text.split()))
        'a b c'
    """
    low, high = 0, len(text)
    if count(text) < length:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(text[:middle]) < length else (low, middle)
    return text[:low]


def batch_of(inputs: Any, batch: int, length: int, first: int, count: Callable[[str], int]) -> Any:
    """Return a batch of a point of the grid, made of real examples; None where the model cannot read so many tokens.

    Args:
        inputs: texts, or images ``(examples, channels, height, width)``.
        batch: how many.
        length: tokens of each text; not looked at for images.
        first: place of the first example; the others follow it, from the beginning again where they end.
        count: see `cut`.
    """
    places = np.arange(first, first + batch) % len(inputs)
    if isinstance(inputs, np.ndarray):
        return inputs[places]
    found = [_long(inputs, int(place), length, count) for place in places]
    return None if any(one is None for one in found) else found


def _long(inputs: Sequence[str], place: int, length: int, count: Callable[[str], int]) -> str | None:
    """Return a text of the given length: an example, repeated until it is long enough."""
    words = str(inputs[place]).strip() or "text"
    copies = 1
    while len(words) * copies < 16 * length:  # no tokenizer has tokens that long on average
        copies *= 2
    return cut(" ".join([words] * copies), length, count)
