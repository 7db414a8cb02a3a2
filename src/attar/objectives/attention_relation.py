"""Compare how tokens relate to each other inside an attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attar.core.rows import weighted_mean
from attar.errors import AttarError
from attar.objectives.features import FeatureObjective, Pair
from attar.objectives.views import View, mean_where, same_tokens
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class AttentionRelation(FeatureObjective):
    """Pull the student's relations of queries, keys and values to the teacher's: ``Σ KL(teacher ‖ student)``.

    The relation of a kind is ``softmax(A Aᵀ / √d)`` with A its vectors, cut anew into relation heads of width d, so
    that head counts and widths of student and teacher may differ. The divergence is averaged over relation heads, the
    tokens of an example, pairs of layers, and examples by weight; kinds are added. Vectors are those before rotation.

    Args:
        settings: see `AttentionRelation.Settings`.

    Reference:
        Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation", 2021, section 3.
    """

    name: ClassVar[str] = "attention_relation"

    class Settings(Settings):
        """Set which layers are compared, and by which relations."""

        pairs: tuple[tuple[int, int], ...] = Field(
            ((-1, -1),), min_length=1, description="the student's and the teacher's layer of each pair; -1 for the last"
        )
        relations: tuple[Literal["query", "key", "value"], ...] = Field(
            ("query", "key", "value"), min_length=1, description="whose relations are compared"
        )
        heads: int = Field(12, ge=1, le=1024, description="relation heads; must divide all widths")

    def _named(self) -> tuple[Pair, ...]:
        pairs, kinds = self.settings.pairs, self.settings.relations
        return tuple((f"{kind}:{ours}", f"{kind}:{theirs}") for kind in kinds for ours, theirs in pairs)

    def of_pair(self, place: int, ours: View, theirs: View, weight: torch.Tensor) -> torch.Tensor:
        """Return the mean over relation heads, tokens and examples.

        Raises:
            AttarError: the relation heads do not divide a width.
        """
        mask = same_tokens(ours, theirs)
        log_q, log_p = (self._relation(one, mask) for one in (ours, theirs))
        # a masked key is -inf in both, and adds 0
        pointwise = torch.where(mask[:, None, None, :], log_p.exp() * (log_p - log_q), 0.0)
        by_token = pointwise.sum(dim=-1).mean(dim=1)
        # the base averages over all named pairs; kinds are to be added
        return weighted_mean(mean_where(by_token, mask), weight) * len(self.settings.relations)

    def _relation(self, one: View, mask: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``(examples, heads, time, time)``."""
        heads = self.settings.heads
        if one.width % heads:
            raise AttarError(
                f"heads of {self.name} must divide the width of '{one.name}', {one.width}, got {heads}. Set heads to a "
                "common divisor of the widths of student and teacher."
            )
        parts = one.values[:, : mask.shape[1]].unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
        # a finite floor: with -inf the gradient of an example without tokens would be NaN
        return torch.log_softmax(scores.masked_fill(~mask[:, None, None, :], -1e30), dim=-1)
