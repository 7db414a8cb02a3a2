"""Find the smaller model that needs no compression: the honest row beside what compression made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.stages.dry import Cost
from attar.stages.solve import Wanted
from attar.students.settings import ModelSettings

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares of a built network's widths that are tried."""
SLACK = 1.05
"""A dense model may cost so much more than what it stands beside and still be called equal."""


@dataclass(frozen=True)
class Dense:
    """Hold a smaller dense model.

    Args:
        settings: how it is made.
        cost: of its bundle.
        words: what it is, for people.
    """

    settings: ModelSettings
    cost: Cost
    words: str


def smaller(settings: ModelSettings, layers: int | None) -> list[tuple[ModelSettings, str]]:
    """Return smaller models of the same kind, from small to large, each with a few words; none where none is known.

    Args:
        settings: of the student.
        layers: that the student has; None for a network without a stack of layers.

    Example:
        >>> [words for _, words in smaller(ModelSettings(model="x"), 3)]
        ['1 layer', '2 layers']
    """
    if layers is not None:
        counts = range(1, layers)
        return [(settings.model_copy(update={"layers": n}), f"{n} layer{'s' * (n > 1)}") for n in counts]
    if settings.build is None:
        return []
    found: dict[tuple[int, ...], ModelSettings] = {}
    for share in WIDTHS:
        widths = tuple(max(1, round(share * width)) for width in settings.build.widths)
        build = settings.build.model_copy(update={"widths": widths})
        found[widths] = settings.model_copy(update={"build": build})
    return [(made, f"widths {'-'.join(map(str, widths))}") for widths, made in found.items()]


def nearest(
    candidates: Sequence[tuple[ModelSettings, str]], cost: Callable[[ModelSettings], Cost], wanted: Wanted
) -> Dense | None:
    """Return the largest candidate that costs no more than is wanted, or the smallest if all cost more.

    Args:
        candidates: from small to large.
        cost: measures one; called for a few of them.
        wanted: what the compressed model costs.
    """
    if not candidates:
        return None
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if wanted.excess(cost(candidates[middle][0])) <= SLACK:
            low = middle
        else:
            high = middle - 1
    settings, words = candidates[low]
    return Dense(settings, cost(settings), words)
