"""Compare where student and teacher look: attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attar.core.rows import weighted_mean
from attar.errors import AttarError
from attar.objectives.features import FeatureObjective, LayerSettings
from attar.objectives.views import View, check_forms, mean_where, same_grid, same_tokens
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FLOOR = 1e-12
"""Least probability of a student: what it rules out costs much, not infinitely much."""


class AttentionTransfer(FeatureObjective):
    """Make the student look where the teacher looks; heads, or channels, may differ in number.

    Of a transformer (features ``attention:I``): probabilities are averaged over heads; compared is the mean squared
    difference over pairs of tokens, or ``KL(teacher ‖ student)`` averaged over the tokens that look. Of a convnet:
    the map ``Σ over channels of A²``, brought to norm 1, and the squared distance of both maps; the larger map is first
    averaged to the smaller's size.

    Args:
        settings: see `AttentionTransfer.Settings`.

    Reference:
        Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017, equation 2 (p = 2, the distance squared);
        for transformers: after Jiao et al., "TinyBERT", 2020, section 3.
    """

    name: ClassVar[str] = "attention_transfer"
    family: ClassVar[str] = "attention"

    class Settings(LayerSettings):
        """Set which layers are compared, and how."""

        compare: Literal["mse", "kl"] = Field("mse", description="of attention probabilities; maps have one way")

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean over examples.

        Raises:
            AttarError: the features are vectors or hidden states, which show no place.
        """
        check_forms(ours, theirs)
        if ours.is_attention:
            return weighted_mean(self._probabilities(ours, theirs), weight)
        if not ours.is_map:
            raise AttarError(
                f"{self.name} compares attention probabilities or maps, and '{ours.name}' is neither. Pair features "
                "named attention:I, or modules of a convnet."
            )
        first, second = (attention_map(maps) for maps in same_grid(ours.values, theirs.values))
        return weighted_mean((first - second).square().sum(dim=-1), weight)

    def _probabilities(self, ours: View, theirs: View) -> torch.Tensor:
        """Return the difference of each example ``(examples,)``."""
        mask = same_tokens(ours, theirs)
        time = mask.shape[1]
        q, p = (one.values.mean(dim=1)[:, :time, :time] for one in (ours, theirs))
        if self.settings.compare == "mse":
            both = mask[:, :, None] & mask[:, None, :]
            return mean_where((q - p).square().flatten(1), both.flatten(1))
        # the clamp of p is for the logarithm alone: 0 · log 0 is 0
        pointwise = p * (p.clamp_min(FLOOR).log() - q.clamp_min(FLOOR).log())
        return mean_where(torch.where(mask[:, None, :], pointwise, 0.0).sum(dim=-1), mask)


def attention_map(maps: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares over channels, with norm 1.

    Args:
        maps: ``(examples, channels, height, width)``.

    Returns:
        ``(examples, height · width)``.

    Example:
        >>> import torch
        >>> attention_map(torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]]])).mul(17**0.5).tolist()
        [[1.0, 4.0]]
    """
    return torch.nn.functional.normalize(maps.square().sum(dim=1).flatten(1), dim=-1)
