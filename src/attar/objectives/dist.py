"""Keep relations instead of probabilities: correlation between and within classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.divergence import SoftSettings
from attar.objectives.pairs import both, mean_where_said, said
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Dist:
    """Match what a strong teacher prefers, not how much: ``T² · (β · inter + γ · intra)``.

    ``inter`` is the mean over rows of 1 minus the Pearson correlation of teacher's and student's softened
    probabilities of all choices; ``intra`` is the mean over choices of 1 minus their correlation over the rows, each
    row counted by its weight. Intra compares rows with each other, so the loss is no mean over rows and depends
    on which rows share a batch. Where the teacher does not vary there is nothing to match, and 0 is added.

    It takes no ``top`` record: a choice's correlation needs its probability in every row.

    Args:
        settings: see `Dist.Settings`.

    Reference:
        Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022, equations 8 to 10.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1, 2]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> abs(float(Dist(Dist.Settings())(rows, rows, torch.tensor([-1, -1])).total)) < 1e-5
        True
    """

    name: ClassVar[str] = "dist"
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset()
    by_row: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = True
    divergence: ClassVar[bool] = True

    class Settings(SoftSettings):
        """Set the softening and the weights of both relations."""

        beta: float = Field(1.0, ge=0, le=1000, description="weight of the relation between choices, row by row")
        gamma: float = Field(1.0, ge=0, le=1000, description="weight of the relation between rows, choice by choice")

    def __init__(self, settings: Dist.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order.

        Raises:
            ValueError: there are no teacher's rows.
        """
        if teacher is None:
            raise ValueError("dist needs the teacher's rows")
        temperature = self.settings.temperature
        q, p = (torch.softmax(part / temperature, dim=-1) for part in both(student, teacher))
        inter = mean_where_said(unlikeness(q, p, torch.ones_like(q[:1])), student, teacher)
        weight = (student.weight * said(student, teacher)).to(q.dtype)
        intra = unlikeness(q.T, p.T, weight[None]).mean()
        loss = (self.settings.beta * inter + self.settings.gamma * intra) * temperature**2
        return Loss(loss, {self.name: loss.detach()})


def unlikeness(ours: torch.Tensor, theirs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the weighted Pearson correlation of each line ``(lines,)``; 0 where theirs does not vary.

    Args:
        ours: ``(lines, values)``.
        theirs: ``(lines, values)``.
        weight: ``(1, values)`` how much each value counts.

    Example:
        >>> import torch
        >>> line = torch.tensor([[1.0, 2.0, 4.0]])
        >>> unlikeness(-line, line, torch.ones(1, 3))
        tensor([2.])
    """
    a, varies_a = _unit(ours, weight)
    b, varies_b = _unit(theirs, weight)
    same = torch.where(varies_a & varies_b, (a * b).sum(dim=-1), 0.0)
    return torch.where(varies_b, 1.0 - same, 0.0)


def _unit(lines: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each line centered, weighted and of length 1, and whether it varied at all."""
    total = weight.sum()
    share = weight / torch.where(total > 0, total, 1.0)
    apart = (lines - (lines * share).sum(dim=-1, keepdim=True)) * share.sqrt()
    squares = apart.square().sum(dim=-1, keepdim=True)
    varies = squares > 0
    # the root of 0 has no finite gradient
    return apart / torch.where(varies, squares, 1.0).sqrt(), varies[:, 0]
