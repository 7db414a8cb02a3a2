"""Compare the student with a mixture of both: skewed reverse Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.objectives.divergence import Divergence, SoftSettings
from attar.objectives.mixture import mix, ratios
from attar.objectives.pairs import LEAST
from attar.objectives.skew import SkewSettings, share_of

if TYPE_CHECKING:
    import torch


class SkewedReverseKL(Divergence):
    """Keep the student where the teacher is, gently: ``T² · KL(q ‖ (1 - α) · p + α · q)``, p teacher, q student.

    It is never above ``T² · ln(1 / α)``, also where the teacher rules out what the student says. The gradient goes
    through both places of q. With ``adaptive``, each row has its own α; see `SkewedForwardKL` for how that differs
    from the paper.

    Of a ``top`` record it compares the choices kept and the rest, which can only be less than the whole.

    Args:
        settings: see `attar.objectives.skew.SkewSettings`.

    Reference:
        Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024, section 3.1;
        the adaptive share: Ko et al., "DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs", 2025.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> sure = example_rows(torch.tensor([1]), torch.tensor([[0.0, -torch.inf]]))
        >>> opposite = example_rows(torch.tensor([1]), torch.tensor([[-99.0, 0.0]]))
        >>> objective = SkewedReverseKL(SkewedReverseKL.Settings(temperature=1, alpha=0.1))
        >>> round(float(objective(opposite, sure, torch.tensor([-1])).total), 4)  # ln 10
        2.3026
    """

    name: ClassVar[str] = "skewed_reverse_kl"
    Settings: ClassVar[type[SoftSettings]] = SkewSettings

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``q · (log q - log((1 - α) · p + α · q))``."""
        log_q = log_q.clamp_min(LEAST)
        return ratios(log_q, mix(log_q, log_p, share_of(self.settings, log_q, log_p)))
