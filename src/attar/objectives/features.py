"""Compare what layers give: what all objectives on features share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.views import View, example_weight, view
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Pair = tuple[str, str]


class LayerSettings(Settings):
    """Set which layer of the student is compared with which of the teacher."""

    layers: Literal["last", "uniform"] = Field(
        "last", description="the last of both, or each of the student's with one of the teacher's, evenly spread"
    )
    pairs: tuple[Pair, ...] = Field(
        (), description="instead: the student's and the teacher's feature of each pair, such as [hidden:1, hidden:5]"
    )


class PooledSettings(Settings):
    """Set which embedding of an example is compared."""

    pairs: tuple[Pair, ...] = Field(
        (("pooled", "pooled"),), min_length=1, description="the student's and the teacher's feature of each pair"
    )


class FeatureObjective:
    """Average a comparison over pairs of features, one of the student's and one of the teacher's each.

    A subclass gives ``of_pair``, and ``part_for`` if a pair has something to learn.

    Args:
        settings: its ``pairs``, or its ``layers``, and what the comparison needs.

    Attributes:
        module: what is learned beside the student, one part for each pair; None where nothing is. It is made by
            `build`, belongs into the optimizer and the checkpoint, and is no part of the student.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Signal]] = frozenset({"features"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset()
    by_row: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    """Tell whether the loss depends on which examples stand together: it then needs the batch uncut."""
    exact: ClassVar[bool] = True
    """Tell whether it is 0 where equal features meet and nothing is learned beside."""
    family: ClassVar[str] = "hidden"
    """What `layers` counts."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.module: torch.nn.ModuleList | None = None

    @property
    def divergence(self) -> bool:
        """Tell whether it is 0 where both say the same: nothing is learned, and each pair has one name."""
        return self.exact and self.module is None and all(ours == theirs for ours, theirs in self._named())

    @property
    def student_features(self) -> frozenset[str]:
        """Return the names of the features it reads of the student."""
        return frozenset(ours for ours, _ in self._named())

    @property
    def teacher_features(self) -> frozenset[str]:
        """Return the names of the features it reads of the teacher."""
        return frozenset(theirs for _, theirs in self._named())

    def _named(self) -> tuple[Pair, ...]:
        if self.settings.pairs:
            return tuple(self.settings.pairs)
        place = "-1" if self.settings.layers == "last" else "*"
        return ((f"{self.family}:{place}", f"{self.family}:{place}"),)

    def pairs(self, student: Rows, teacher: Rows) -> list[Pair]:
        """Return the pairs of names, each ``*`` replaced by layers: the last meet, the others are evenly spread."""
        found: list[Pair] = []
        for ours, theirs in self._named():
            if ours.endswith(":*") and theirs.endswith(":*"):
                found += _spread(ours[:-1], theirs[:-1], _count(student, ours), _count(teacher, theirs))
            else:
                found.append((ours, theirs))
        return found

    def build(self, student: Rows, teacher: Rows) -> None:
        """Make what is learned beside the student, from the shapes of features; torch's seed decides the weights.

        Args:
            student: rows with features, of any examples.
            teacher: rows with features, of the same examples.
        """
        views = [(view(student, ours), view(teacher, theirs)) for ours, theirs in self.pairs(student, teacher)]
        parts = [self.part_for(ours, theirs) for ours, theirs in views]
        if any(part is not None for part in parts):
            first = views[0][0].values
            kept = torch.nn.ModuleList([torch.nn.Identity() if part is None else part for part in parts])
            self.module = kept.to(device=first.device, dtype=first.dtype)

    def part_for(self, ours: View, theirs: View) -> torch.nn.Module | None:
        """Return what is learned for a pair of features; None for nothing."""
        return None

    def part(self, place: int) -> Any:
        """Return what is learned for the pair at a place; the identity where nothing is."""
        return torch.nn.Identity() if self.module is None else self.module[place]

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the loss of a pair, a scalar.

        Args:
            place: of the pair.
            ours: the student's feature.
            theirs: the teacher's.
            weight: ``(examples,)``.
        """
        raise NotImplementedError

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the mean over pairs, each a mean over examples; ``teacher`` holds the same examples in order.

        Raises:
            ValueError: there are no teacher's rows, or a feature is missing.
        """
        if teacher is None:
            raise ValueError(f"{self.name} needs the teacher's rows")
        losses = []
        with torch.autocast(student.key.device.type, enabled=False):
            for place, (one, other) in enumerate(self.pairs(student, teacher)):
                ours, theirs = view(student, one), view(teacher, other).like(view(student, one))
                losses.append(self.of_pair(place, ours, theirs, example_weight(student, len(ours.values))))
            loss = torch.stack(losses).mean()
        return Loss(loss, {self.name: loss.detach()})


def _count(rows: Rows, name: str) -> int:
    """Return how many layers the features of a family come from."""
    family = name.partition(":")[0]
    numbers = [int(key.partition(":")[2]) for key in rows.features if key.startswith(f"{family}:")]
    if max(numbers, default=-1) < 0:
        raise ValueError(f"these rows hold no '{name}'; they hold {', '.join(rows.features) or 'no features'}")
    return max(numbers) + 1


def _spread(ours: str, theirs: str, few: int, many: int) -> list[Pair]:
    return [(f"{ours}{place}", f"{theirs}{-(-(place + 1) * many // few) - 1}") for place in range(few)]
