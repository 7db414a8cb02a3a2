"""Compare both distributions with their mixture: generalized Jensen-Shannon divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.objectives.divergence import Divergence, SoftSettings
from attar.objectives.mixture import mix, ratios
from attar.objectives.pairs import LEAST

if TYPE_CHECKING:
    import torch


class JensenShannon(Divergence):
    """Pull teacher and student to their mixture: ``T² · (β · KL(p ‖ m) + (1 - β) · KL(q ‖ m))``.

    p is the teacher, q the student, ``m = β · p + (1 - β) · q``. It is never above ``T² · ln 2``, whatever the
    teacher rules out. At the ends it vanishes, and its direction is left: ``JSD / β`` goes to forward KL for β to 0,
    ``JSD / (1 - β)`` to reverse KL for β to 1. At β = 1/2 the gradient is a quarter of forward KL's where both are
    near.

    ``beta`` is that of TRL's GKD and of Liger, which put the KL itself at their beta 0 (forward) and 1 (reverse):
    use `forward_kl` and `reverse_kl` there. They leave T² out, so their weight 1 is weight 1/T² here.

    Of a ``top`` record it compares the choices kept and the rest, which can only be less than the whole.

    Args:
        settings: see `JensenShannon.Settings`.

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models", 2024, equation 1.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> sure = example_rows(torch.tensor([1]), torch.tensor([[0.0, -torch.inf]]))
        >>> opposite = example_rows(torch.tensor([1]), torch.tensor([[-99.0, 0.0]]))
        >>> objective = JensenShannon(JensenShannon.Settings(temperature=1))
        >>> round(float(objective(opposite, sure, torch.tensor([-1])).total), 4)
        0.6931
    """

    name: ClassVar[str] = "jensen_shannon"

    class Settings(SoftSettings):
        """Set the softening and where the mixture lies."""

        beta: float = Field(0.5, gt=0, lt=1, description="share of the teacher in the mixture, and of its divergence")

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``β · p · log(p / m) + (1 - β) · q · log(q / m)``."""
        beta: float = self.settings.beta
        log_q = log_q.clamp_min(LEAST)
        log_m = mix(log_p, log_q, log_q.new_tensor(beta))
        return beta * ratios(log_p, log_m) + (1 - beta) * ratios(log_q, log_m)
