"""Solve a target into compression steps: the mildest that meet it, measured on files before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.core.layers import layer_list
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.stages.dry import Cost

Steps = tuple[tuple[str, Mapping[str, Any]], ...]
MLP = (0.0, 0.25, 0.5, 0.75)
"""Shares of the MLP's channels that are tried, at each depth."""
MACS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
"""Shares of a CNN's products that are tried."""
NEAR = 0.04
"""Rungs whose sizes differ by less are one."""


@dataclass(frozen=True)
class Rung:
    """Hold steps and the share of the model's products that they leave.

    Args:
        steps: in order.
        kept: in (0, 1].
    """

    steps: Steps
    kept: float


@dataclass(frozen=True)
class Solved:
    """Hold the steps that meet a target.

    Args:
        steps: in order.
        cost: of the untrained bundle with these steps.
        tried: every rung that was measured, with its cost.
    """

    steps: Steps
    cost: Cost
    tried: tuple[tuple[Steps, Cost], ...]


@dataclass(frozen=True)
class Wanted:
    """Hold what a bundle may cost; None for any.

    Args:
        bytes: of all its files.
        p50: milliseconds of an answer.
    """

    bytes: int | None = None
    p50: float | None = None

    def excess(self, cost: Cost) -> float:
        """Return how many times a cost is over the target, by the worse of both; at most 1 where it is met.

        Example:
            >>> Wanted(1000, 5.0).excess(Cost(bytes=2000, p50=4.0))
            2.0
        """
        return max(cost.bytes / self.bytes if self.bytes else 0.0, cost.p50 / self.p50 if self.p50 else 0.0)

    def __str__(self) -> str:
        asked = [f"{self.bytes / 1e6:.2f} MB"] if self.bytes else []
        return " and ".join([*asked, *([f"{self.p50:g} ms"] if self.p50 else [])])


def solve(ladders: Sequence[Sequence[Rung]], cost: Callable[[Steps], Cost], wanted: Wanted) -> Solved:
    """Return the mildest steps whose bundle meets a target.

    Args:
        ladders: lists of rungs, each from mild to harsh: what a rung costs falls along its list.
        cost: measures steps.
        wanted: the target.

    Raises:
        AttarError: no rung meets the target; the message says what is nearest.
    """
    tried: dict[str, tuple[Steps, Cost]] = {}

    def measured(rung: Rung) -> Cost:
        """Return the rung's cost, measured once."""
        name = repr(rung.steps)
        if name not in tried:
            tried[name] = (rung.steps, cost(rung.steps))
        return tried[name][1]

    found = [rung for rungs in ladders if (rung := _mildest(rungs, measured, wanted)) is not None]
    if not found:
        raise AttarError(_impossible(list(tried.values()), wanted))
    best = max(found, key=lambda rung: rung.kept)
    return Solved(best.steps, measured(best), tuple(tried.values()))


def _mildest(rungs: Sequence[Rung], measured: Callable[[Rung], Cost], wanted: Wanted) -> Rung | None:
    """Return the first rung that meets the target, by bisection; None if not even the last does."""
    low, high = 0, len(rungs) - 1
    if wanted.excess(measured(rungs[high])) > 1:
        return None
    while low < high:
        middle = (low + high) // 2
        if wanted.excess(measured(rungs[middle])) > 1:
            low = middle + 1
        else:
            high = middle
    return rungs[high]


def _impossible(tried: Sequence[tuple[Steps, Cost]], wanted: Wanted) -> str:
    steps, cost = min(tried, key=lambda pair: wanted.excess(pair[1]))
    named = ", ".join(f"{name} {dict(settings) or ''}".strip() for name, settings in steps)
    return (
        f"compress.to asks for {wanted}, and no steps reach that with this student. The nearest is "
        f"{cost.bytes / 1e6:.2f} MB and {cost.p50:.2f} ms ({named}). Ask for that, or choose a smaller student."
    )


def ladders_of(task: str, model: Model) -> list[list[Rung]]:
    """Return the rungs to try for a model.

    Args:
        task: the recipe's task.
        model: before training.
    """
    if task == "image-classification":
        return [_image(()), _image((("static_int8", {}),))]
    return [_text(len(layer_list(model.module)[2]))]


def _image(end: Steps) -> list[Rung]:
    return [Rung(end, 1.0), *(Rung((("channels", {"macs": share}), *end), 1 - share) for share in MACS)]


def _text(layers: int) -> list[Rung]:
    start: Steps = (("vocabulary", {}),)
    end: Steps = (("dynamic_int8", {}),)
    rungs = [Rung((), 1.0), Rung(start, 1.0), Rung((*start, *end), 1.0)]
    every = [(_share(count, layers, mlp), count, mlp) for count in range(1, layers + 1) for mlp in MLP]
    last = 1.0
    for kept, count, mlp in sorted(every, reverse=True):
        if kept <= last - NEAR or (count, mlp) == (1, MLP[-1]):
            depth: Steps = (("depth", {"layers": count}),) if count < layers else ()
            width: Steps = (("width", {"mlp": mlp}),) if mlp else ()
            rungs.append(Rung((*start, *depth, *width, *end), kept))
            last = kept
    return rungs


def _share(count: int, layers: int, mlp: float) -> float:
    """Return about what share of a transformer's products stays: a third of a layer is attention."""
    return count / layers * (1 / 3 + 2 / 3 * (1 - mlp))
