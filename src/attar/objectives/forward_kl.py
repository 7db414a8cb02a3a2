"""Compare whole distributions: forward Kullback-Leibler divergence from the student to the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows, weighted_mean
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class ForwardKL:
    """Pull the student's distribution over the teacher's: ``T² · KL(teacher ‖ student)``, both softened by T.

    The factor T² keeps the size of the gradient the same at every temperature, so a weight found at one
    temperature stays good at another.

    Args:
        settings: see `ForwardKL.Settings`.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
        >>> float(ForwardKL(ForwardKL.Settings(temperature=2))(rows, rows, torch.tensor([-1])).total)
        0.0
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    divergence: ClassVar[bool] = True

    class Settings(Settings):
        """Set the softening of both distributions."""

        temperature: float = Field(2.0, gt=0, le=1000, description="divides both logits; > 1 shows the small ones")

    def __init__(self, settings: ForwardKL.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order."""
        if teacher is None:
            raise ValueError("forward_kl needs the teacher's rows")
        temperature = self.settings.temperature
        log_student = torch.log_softmax(student.dense().float() / temperature, dim=-1)
        log_teacher = torch.log_softmax(teacher.dense().float() / temperature, dim=-1)
        p = log_teacher.exp()
        # a choice that the teacher rules out (-inf) adds 0, not 0 x infinity
        divergence = torch.where(p > 0, p * (log_teacher - log_student), 0.0).sum(dim=-1)
        loss = weighted_mean(divergence, student.weight) * temperature**2
        return Loss(loss, {"forward_kl": loss.detach()})
