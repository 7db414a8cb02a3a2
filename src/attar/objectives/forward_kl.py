"""Compare whole distributions: forward Kullback-Leibler divergence from the student to the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from attar.core.nouns import Signal
from attar.core.rows import Rows, Sampled
from attar.objectives.divergence import Divergence
from attar.objectives.pairs import scores
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class ForwardKL(Divergence):
    """Pull the student's distribution over the teacher's: ``T² · KL(teacher ‖ student)``, both softened by T.

    Of a sampled record it is unbiased in value and gradient: it is linear in the teacher's probabilities.

    Args:
        settings: see `attar.objectives.divergence.SoftSettings`.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
        >>> float(ForwardKL(ForwardKL.Settings(temperature=2))(rows, rows, torch.tensor([-1])).total)
        0.0
    """

    name: ClassVar[str] = "forward_kl"
    settles_for: ClassVar[frozenset[Signal]] = frozenset({"top", "sampled"})

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``p · (log p - log q)``."""
        p = log_p.exp()
        # a choice that the teacher rules out (-inf) adds 0, not 0 x infinity
        return torch.where(p > 0, p * (log_p - log_q), 0.0)

    def of_rows(self, student: Rows, teacher: Rows) -> torch.Tensor:
        """Return the divergence of each row; of a sample, its unbiased estimate, which may be below 0."""
        if teacher.sampled is None:
            return super().of_rows(student, teacher)
        sample = sample_at(teacher.sampled, self.settings.temperature)
        ours = scores(student)[..., : sample.choices] / self.settings.temperature
        log_q = ours.gather(-1, sample.ids) - ours.logsumexp(dim=-1, keepdim=True)
        estimate: torch.Tensor = -(sample.shares * log_q).sum(dim=-1) - sample.entropy
        return estimate


def sample_at(samples: Mapping[float, Sampled], temperature: float) -> Sampled:
    """Return the sample taken at a temperature.

    Raises:
        ValueError: the record holds none.
    """
    if temperature not in samples:
        known = ", ".join(f"{value:g}" for value in samples)
        raise ValueError(f"this record was sampled at the temperatures {known}, and {temperature:g} is asked for")
    return samples[temperature]
