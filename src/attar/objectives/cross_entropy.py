"""Compare with hard targets: cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.examples import UNKNOWN
from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows, weighted_mean
from attar.objectives.pairs import scores
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class CrossEntropy:
    """Raise the score of the right choice; a row without a target adds nothing.

    The mean is over all row weights, also those of rows without a target: each row's pull is then the same in any
    batch, and gradients do not change with the size of micro-batches.

    Args:
        settings: see `CrossEntropy.Settings`.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1]), torch.zeros(1, 2))
        >>> round(float(CrossEntropy(CrossEntropy.Settings())(rows, None, torch.tensor([0])).total), 4)
        0.6931
    """

    name: ClassVar[str] = "cross_entropy"
    needs: ClassVar[frozenset[Signal]] = frozenset({"hard"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset()
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = False

    class Settings(Settings):
        """Set how hard the target is."""

        label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all choices")

    def __init__(self, settings: CrossEntropy.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss against ``targets (rows,)``; `attar.core.examples.UNKNOWN` is passed over."""
        losses = torch.nn.functional.cross_entropy(
            scores(student),
            targets,
            reduction="none",
            ignore_index=UNKNOWN,
            label_smoothing=self.settings.label_smoothing,
        )
        loss = weighted_mean(losses, student.weight)
        return Loss(loss, {"cross_entropy": loss.detach()})
