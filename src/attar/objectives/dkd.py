"""Weigh the target and the other choices apart: decoupled knowledge distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from attar.core.examples import UNKNOWN
from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.divergence import SoftSettings
from attar.objectives.mixture import ratios
from attar.objectives.pairs import LEAST, both, mean_where_said
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class DecoupledKD:
    """Teach how sure the target is, and apart from that how the others compare: ``T² · (α · TCKD + β · NCKD)``.

    TCKD is KL(teacher ‖ student) of "target or not"; NCKD is KL of the others among themselves. Plain forward KL is
    ``TCKD + (1 - p_target) · NCKD``: where the teacher is sure, it hardly teaches the others.

    The target is the row's own where it is known, else the teacher's likeliest choice. With two choices NCKD is 0.

    It takes no ``top`` record, where the target's probability may be missing.

    Args:
        settings: see `DecoupledKD.Settings`.

    Reference:
        Zhao et al., "Decoupled Knowledge Distillation", 2022, equation 7.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1]), torch.tensor([[0.0, 1.0, 2.0]]))
        >>> float(DecoupledKD(DecoupledKD.Settings())(rows, rows, torch.tensor([0])).total)
        0.0
    """

    name: ClassVar[str] = "dkd"
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset()
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = True

    class Settings(SoftSettings):
        """Set the softening and the weights of both parts."""

        alpha: float = Field(1.0, ge=0, le=1000, description="weight of the target against all others")
        beta: float = Field(8.0, ge=0, le=1000, description="weight of the others among themselves")

    def __init__(self, settings: DecoupledKD.Settings) -> None:
        self.settings: Any = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss against the teacher; ``targets (rows,)`` say which choice is judged apart.

        Raises:
            ValueError: there are no teacher's rows.
        """
        if teacher is None:
            raise ValueError("dkd needs the teacher's rows")
        temperature = self.settings.temperature
        ours, theirs = (part / temperature for part in both(student, teacher))
        known = (targets >= 0) & (targets != UNKNOWN) & (targets < ours.shape[-1])
        target = torch.where(known, targets, theirs.argmax(dim=-1))[:, None]
        apart = self.settings.alpha * _target_part(ours, theirs, target)
        apart = apart + self.settings.beta * _other_part(ours, theirs, target)
        loss = mean_where_said(apart, student, teacher) * temperature**2
        return Loss(loss, {self.name: loss.detach()})


def _target_part(ours: torch.Tensor, theirs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return KL of "target or not" for each row."""
    log_p, log_q = (_target_or_not(part, target) for part in (theirs, ours))
    return ratios(log_p, log_q).sum(dim=-1)


def _target_or_not(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities ``(rows, 2)`` of the target and of all others together."""
    # 1 - p would lose all digits where p is near 1; LEAST keeps a row without others a number
    others = scores.scatter(-1, target, LEAST).logsumexp(dim=-1, keepdim=True)
    return torch.log_softmax(torch.cat([scores.gather(-1, target), others], dim=-1), dim=-1)


def _other_part(ours: torch.Tensor, theirs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return KL of the others among themselves for each row."""
    log_p, log_q = (torch.log_softmax(part.scatter(-1, target, LEAST), dim=-1) for part in (theirs, ours))
    return ratios(log_p, log_q).scatter(-1, target, 0.0).sum(dim=-1)
