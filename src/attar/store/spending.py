"""Count what calls cost, and say when a cap would be passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Hold what calls cost.

    Args:
        calls: number of calls.
        input_tokens: tokens read.
        output_tokens: tokens written.
        dollars: their price.

    Example:
        >>> (Cost(1, 10, 2, 0.5) + Cost(1, 5)).tokens
        17
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Return the tokens read and written."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(one + two for one, two in zip(self._parts(), other._parts(), strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(one - two for one, two in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Any, ...]:
        return (self.calls, self.input_tokens, self.output_tokens, self.dollars)


@dataclass(frozen=True)
class Caps:
    """Hold what may be spent at most; None is no cap.

    Args:
        calls: calls that are billed or perhaps billed.
        tokens: tokens read and written.
        dollars: their price.
    """

    calls: int | None = None
    tokens: int | None = None
    dollars: float | None = None

    def passed(self, cost: Cost) -> str | None:
        """Return the name of a cap that ``cost`` passes, or None.

        Example:
            >>> Caps(dollars=1.0).passed(Cost(dollars=1.5))
            'dollars'
        """
        pairs = (("calls", cost.calls), ("tokens", cost.tokens), ("dollars", cost.dollars))
        limits = {"calls": self.calls, "tokens": self.tokens, "dollars": self.dollars}
        for name, spent in pairs:
            limit = limits[name]
            if limit is not None and spent > limit * (1 + 1e-12):  # sums of floats end a hair above
                return name
        return None


class CapReached(Exception):  # noqa: N818 (a state, not a fault)
    """Report that the next call might pass a cap.

    Args:
        name: ``calls``, ``tokens`` or ``dollars``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
