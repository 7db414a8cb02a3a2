"""Answer with several teachers at once: the combined distribution of all, or one of them a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attar.core.examples import Examples
from attar.core.nouns import Signal, Teacher
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

How = Literal["mean", "weighted", "per_row", "chosen"]
"""How members are combined.

``mean``: the mean of their probabilities; ``weighted``: the same with a weight for each member; ``per_row``: a row's
weights are the softmax of the members' negative entropies, so who is sure counts more; ``chosen``: one member a row,
by the row's key, so that over all rows each speaks for its share.
"""


class EnsembleTeacher:
    """Answer with the logarithm of the members' combined probabilities.

    Probabilities are combined, not logits: the mean of distributions is the distribution that is nearest to all of
    them in forward KL.

    Args:
        members: teachers of the same examples and choices.
        how: see `How`.
        weights: one for each member, >= 0, not all 0; for ``weighted`` alone.

    Raises:
        ValueError: there is no member, or the weights do not fit.

    Reference:
        Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2 (the mean);
        Fukuda et al. 2017, "Efficient Knowledge Distillation from an Ensemble of Teachers" (one of them at a time).
    """

    def __init__(self, members: Sequence[Teacher], how: How = "mean", weights: Sequence[float] | None = None) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        if (how == "weighted") != (weights is not None):
            raise ValueError("weights are for how='weighted', and are needed there")
        if weights is not None and (len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights must be one for each of {len(members)} members, >= 0 and not all 0")
        self.members = tuple(members)
        self.how = how
        self.weights = None if weights is None else tuple(float(value) for value in weights)
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})
        parts = [member.fingerprint for member in members]
        self.fingerprint = f"{how} {list(self.weights or ())} of {', '.join(parts)}"

    def answer(self, examples: Examples) -> Rows:
        """Return rows with log-probabilities ``(rows, choices)``, in the examples' order.

        Raises:
            AttarError: a member answers with other than scores of every choice.
            ValueError: the members' rows differ in keys or choices.
        """
        said = [member.answer(examples) for member in self.members]
        first = said[0]
        for rows in said:
            if rows.logits is None:
                raise AttarError(
                    "An ensemble combines classifiers, which score every class; a member that writes texts gives no "
                    "such scores. Use teacher.members: 1 for tasks that write."
                )
            if not torch.equal(rows.key, first.key) or rows.choices != first.choices:
                raise ValueError("the members of an ensemble answered with other rows than each other")
        log_p = torch.stack([torch.log_softmax(rows.dense().float(), dim=-1) for rows in said])
        return Rows(first.key, first.weight, self._combined(log_p, first.key))

    def _combined(self, log_p: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return ``(rows, choices)`` of ``log_p (members, rows, choices)``."""
        if self.how == "chosen":
            places = torch.remainder(key.sum(dim=1), len(self.members))  # content keys are hashes: no member is favored
            return log_p[places, torch.arange(len(key), device=key.device)]
        return torch.logsumexp(log_p + self._log_weights(log_p), dim=0)

    def _log_weights(self, log_p: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the weights, ``(members, 1 or rows, 1)``; they sum to 1."""
        if self.how == "per_row":
            negative_entropy = torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(dim=-1, keepdim=True)
            return torch.log_softmax(negative_entropy, dim=0)
        own = self.weights or (1.0,) * len(self.members)
        weights = torch.tensor(own, dtype=torch.float64, device=log_p.device)
        return (weights / weights.sum()).log().to(log_p.dtype)[:, None, None]
