"""Compare scores themselves: mean squared error of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.pairs import both, mean_where_said
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class LogitMSE:
    """Match every logit: the mean over choices of ``(student - teacher)²``; there is no temperature and no T².

    With ``center``, each row's mean is taken off both first: a constant in all logits says nothing about
    probabilities. ``T² · KL`` of the two goes to half of the centered error as T grows. A choice that either rules
    out (-inf) is left out of the mean.

    It takes no ``top`` record: all logits are needed. A record of all choices holds log-probabilities, from which a
    row's constant is lost, so without ``center`` the teacher has to be asked live.

    Args:
        settings: see `LogitMSE.Settings`.

    Reference:
        Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014, section 2.2.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> teacher = example_rows(torch.tensor([1]), torch.tensor([[5.0, 9.0]]))
        >>> student = example_rows(torch.tensor([1]), torch.zeros(1, 2))
        >>> float(LogitMSE(LogitMSE.Settings(center=True))(student, teacher, torch.tensor([-1])).total)
        4.0
    """

    name: ClassVar[str] = "logit_mse"
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset()
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = True

    class Settings(Settings):
        """Set what is compared."""

        center: bool = Field(True, description="take each row's mean off first; off needs a live teacher")

    def __init__(self, settings: LogitMSE.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order.

        Raises:
            ValueError: there are no teacher's rows.
        """
        if teacher is None:
            raise ValueError("logit_mse needs the teacher's rows")
        ours, theirs = both(student, teacher)
        known = torch.isfinite(ours) & torch.isfinite(theirs)
        count = known.sum(dim=-1, keepdim=True).clamp_min(1)
        # the difference of the means is the mean of the differences
        apart = torch.where(known, ours, 0.0) - torch.where(known, theirs, 0.0)
        if self.settings.center:
            apart = torch.where(known, apart - apart.sum(dim=-1, keepdim=True) / count, 0.0)
        loss = mean_where_said(apart.square().sum(dim=-1) / count[:, 0], student, teacher)
        return Loss(loss, {self.name: loss.detach()})
