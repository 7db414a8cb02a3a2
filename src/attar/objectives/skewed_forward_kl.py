"""Compare the teacher with a mixture of both: skewed forward Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attar.objectives.divergence import Divergence, SoftSettings
from attar.objectives.mixture import mix, ratios
from attar.objectives.pairs import LEAST
from attar.objectives.skew import SkewSettings, share_of

if TYPE_CHECKING:
    import torch


class SkewedForwardKL(Divergence):
    """Pull the student under the teacher, gently: ``T² · KL(p ‖ α · p + (1 - α) · q)``, p teacher, q student.

    The teacher's share in the mixture keeps the loss below ``T² · ln(1 / α)``: a choice that the student holds
    impossible counts at most 1/α times. With ``adaptive``, each row has its own α.

    The paper takes the mean gap of the first steps and the probability of whole replies; here the gap is a setting
    and each row is judged by itself, so the loss does not depend on which rows share a batch.

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
        >>> objective = SkewedForwardKL(SkewedForwardKL.Settings(temperature=1, alpha=0.1))
        >>> round(float(objective(opposite, sure, torch.tensor([-1])).total), 4)  # ln 10
        2.3026
    """

    name: ClassVar[str] = "skewed_forward_kl"
    Settings: ClassVar[type[SoftSettings]] = SkewSettings

    def pointwise(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return ``p · (log p - log(α · p + (1 - α) · q))``."""
        log_q = log_q.clamp_min(LEAST)
        return ratios(log_p, mix(log_p, log_q, share_of(self.settings, log_p, log_q)))
