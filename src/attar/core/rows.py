"""Say what a model says: one row for each decision, with a score for each choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Rows:
    """Hold a batch of decisions.

    A class head gives one row an example; a language model one a token; a detector one a box. Either ``logits``
    is given, or ``hidden`` and ``head``, whose product it is: a big vocabulary need not be laid out whole.

    Args:
        key: ``(rows, 2)`` int64: which example (its content key), which position in it. Keys make order
            irrelevant: shuffling, accumulation and workers cannot misalign teacher and student.
        weight: ``(rows,)`` how much each row counts; losses are means over these weights.
        logits: ``(rows, choices)`` unnormalized log-probabilities.
        hidden: ``(rows, width)`` what the head reads.
        head: ``(choices, width)`` the head's weights.

    Raises:
        ValueError: neither ``logits`` nor ``hidden`` with ``head`` is given, or row counts differ.

    Example:
        >>> import torch
        >>> rows = Rows(torch.tensor([[7, 0]]), torch.ones(1), torch.zeros(1, 3))
        >>> rows.dense().shape
        torch.Size([1, 3])
    """

    key: torch.Tensor
    weight: torch.Tensor
    logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    head: torch.Tensor | None = None

    def __post_init__(self) -> None:
        lazy_pair = self.hidden is not None and self.head is not None
        if (self.logits is None) != lazy_pair:
            raise ValueError("Rows take either logits, or hidden with head")
        scores = self.logits if self.logits is not None else self.hidden
        count = 0 if scores is None else scores.shape[0]
        if self.key.shape != (count, 2) or self.weight.shape != (count,):
            raise ValueError(
                f"Rows must agree in count: {count} rows of scores, key {tuple(self.key.shape)}, "
                f"weight {tuple(self.weight.shape)}"
            )

    def dense(self) -> torch.Tensor:
        """Return the scores ``(rows, choices)``, laid out whole."""
        if self.logits is not None:
            return self.logits
        return self.hidden @ self.head.T  # type: ignore[operator, union-attr]

    def detach(self) -> Rows:
        """Return the same rows cut from the gradient."""
        parts = (self.logits, self.hidden, self.head)
        return Rows(self.key, self.weight, *(None if part is None else part.detach() for part in parts))


def example_rows(keys: torch.Tensor, logits: torch.Tensor) -> Rows:
    """Return one row an example, at position 0, with weight 1.

    Args:
        keys: ``(examples,)`` int64 content keys.
        logits: ``(examples, choices)``.
    """
    places = torch.zeros_like(keys)
    return Rows(torch.stack([keys, places], dim=1), torch.ones(len(keys), device=logits.device), logits)


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``values (rows,)`` over row weights; 0 where all weights are 0.

    This is the one reduction of the house: every loss is a mean over row weights.
    """
    total = weight.sum()
    # where all weights are 0, a tiny divisor instead of 1 would give 0 x infinity in the gradient
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)
