"""Hold what may be spent, and say how much of it is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["seconds", "tokens", "calls", "dollars", "bytes", "milliseconds"]


@dataclass(frozen=True)
class Budget:
    """Limit one or several amounts; ``a & b`` is spent when either is, ``a | b`` when both are.

    Args:
        limits: unit -> the most that may be spent; empty is no limit.
        either: budgets of which the fullest counts.
        each: budgets of which the emptiest counts.

    Example:
        >>> budget = Budget({"seconds": 60}) & Budget({"tokens": 1000})
        >>> budget.left({"seconds": 15, "tokens": 900})
        0.1
        >>> (Budget({"seconds": 60}) | Budget({"tokens": 1000})).left({"seconds": 15, "tokens": 900})
        0.75
    """

    limits: Mapping[Unit, float] | None = None
    either: tuple[Budget, ...] = ()
    each: tuple[Budget, ...] = ()

    def __and__(self, other: Budget) -> Budget:
        return Budget(each=(self, other))

    def __or__(self, other: Budget) -> Budget:
        return Budget(either=(self, other))

    def left(self, spent: Mapping[Unit, float]) -> float:
        """Return the share that is left, from 1 (nothing is spent, or nothing is limited) to 0.

        Args:
            spent: unit -> what was spent; a unit that is not there was not spent.
        """
        shares = [1.0 - spent.get(unit, 0.0) / limit if limit else 0.0 for unit, limit in (self.limits or {}).items()]
        shares += [budget.left(spent) for budget in self.each]
        if self.either:
            shares.append(max(budget.left(spent) for budget in self.either))
        return round(min(1.0, max(0.0, min(shares, default=1.0))), 12)

    def holds(self, spent: Mapping[Unit, float]) -> bool:
        """Tell whether something is left; a limit of 0 leaves nothing from the beginning."""
        return self.left(spent) > 0


def add(spent: Mapping[Unit, float], more: Mapping[Unit, float]) -> dict[Unit, float]:
    """Return the sum of two amounts, unit by unit.

    Example:
        >>> add({"seconds": 1.0}, {"seconds": 2.0, "calls": 1})
        {'seconds': 3.0, 'calls': 1.0}
    """
    return {unit: spent.get(unit, 0.0) + more.get(unit, 0.0) for unit in dict.fromkeys((*spent, *more))}
