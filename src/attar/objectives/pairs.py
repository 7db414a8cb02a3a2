"""Bring student and teacher to the same choices: all of them, or those kept and the rest."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from attar.core.rows import Rows, weighted_mean
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

LEAST = -1e30
"""Stands for minus infinity where a gradient is taken: 0 x -inf would be no number."""
MOST = 1e3
"""Largest score that still leaves digits for the logarithm of a share, in float32."""


def scores(rows: Rows) -> torch.Tensor:
    """Return scores ``(rows, choices)`` in float32, or in float64 if they are that."""
    dense = rows.dense()
    return dense if dense.dtype == torch.float64 else dense.float()


def both(student: Rows, teacher: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of both over the choices they share.

    Vocabularies of one tokenizer may be padded to different lengths (151,936 and 152,064 for one family); the
    choices that only one has are padding, never text, and are left out on both sides.
    """
    ours, theirs = scores(student), scores(teacher).to(student.key.device)
    shared = min(ours.shape[-1], theirs.shape[-1])
    return ours[..., :shared], theirs[..., :shared]


def softened(student: Rows, teacher: Rows, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of teacher and student at a temperature, over the same choices.

    Args:
        student: rows with scores of every choice.
        teacher: rows with scores of every choice, or with the likeliest and the rest.
        temperature: divides both scores.

    Returns:
        ``log_p`` and ``log_q``: ``(rows, choices)``, or ``(rows, k + 1)`` with the rest as the last choice. A choice
        kept that the student lacks counts to the rest.

    Raises:
        ValueError: the teacher's rows hold a sample, from which no probabilities can be told, or not this temperature.
    """
    if teacher.top is None:
        ours, theirs = both(student, teacher)
        return torch.log_softmax(theirs / temperature, dim=-1), torch.log_softmax(ours / temperature, dim=-1)
    ours = scores(student)[..., : teacher.top.choices] / temperature
    log_q = torch.log_softmax(torch.cat(parted(ours, teacher.top.ids), dim=-1), dim=-1)
    kept, rest = teacher.top.softened(temperature)
    shared = has(ours, teacher.top.ids)
    lost = torch.cat([rest[:, None], kept.masked_fill(shared, float("-inf"))], dim=-1).logsumexp(dim=-1, keepdim=True)
    log_p = torch.cat([kept.masked_fill(~shared, float("-inf")), lost], dim=-1)
    return log_p.to(log_q.dtype), log_q


def mean_where_said(values: torch.Tensor, student: Rows, teacher: Rows) -> torch.Tensor:
    """Return the mean of ``values (rows,)`` over the student's weights; where the teacher says nothing, 0 is added.

    A row that the teacher says nothing of has weight 0 on its side, as where its tokens do not begin. It stays in the
    mean, as rows without a hard target do, so each row's pull is the same in any batch. Other weights of the teacher
    do not count: where one task makes both rows, they are the student's, and would count twice.
    """
    return weighted_mean(torch.where(said(student, teacher), values, 0.0), student.weight)


def said(student: Rows, teacher: Rows) -> torch.Tensor:
    """Tell at which rows ``(rows,)`` the teacher says anything."""
    return teacher.weight.to(student.weight.device) > 0


def has(ours: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Tell which choices of a record ``ids (rows, k)`` are among the student's scores ``(rows, choices)``."""
    return (ids >= 0) & (ids < ours.shape[-1])


def parted(ours: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of the choices kept ``(rows, k)``, and the logsumexp of all others ``(rows, 1)``.

    The rest is added up by itself: 1 - Σ kept would lose all digits where little is left.

    Args:
        ours: ``(rows, choices)`` the student's scores.
        ids: ``(rows, k)`` int64; what the student lacks has the score `LEAST`.
    """
    shared = has(ours, ids)
    if ids.shape[-1] < ours.shape[-1] and bool(shared.all()):
        kept, rest = _parted().apply(ours, ids)
        return kept, rest
    kept = ours.gather(-1, ids.clamp(0, ours.shape[-1] - 1)).masked_fill(~shared, LEAST)
    # an extra place takes ids that are none
    others = torch.nn.functional.pad(ours, (0, 1), value=LEAST)
    others.scatter_(-1, torch.where(shared, ids, ours.shape[-1]), float("-inf"))
    return kept, others.logsumexp(dim=-1, keepdim=True)


@cache
def _parted() -> Any:
    """Return the autograd function of `parted`; made on first use, because its base class is torch's.

    One fused log-softmax over the others gives both their sum and, as it is, the gradient: as few passes over the
    vocabulary as cross-entropy makes. Composed of torch's operations it would be twice as many.
    """

    class Parted(torch.autograd.Function):
        """Split scores into those kept and the logsumexp of the rest."""

        @staticmethod
        def forward(ctx: Any, ours: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return both parts; keep the log-shares of the rest."""
            kept = ours.gather(-1, ids)
            free = _first_free(ids)  # a choice that is not kept: the sum is its score over its share
            others = ours.scatter(-1, ids, float("-inf"))
            shares = torch.log_softmax(others, dim=-1)
            known = ours.gather(-1, free)
            rest = known - shares.gather(-1, free)
            # that choice is ruled out, by -inf or a large number, or all others are
            if not bool((rest.isfinite() & (known.abs() <= MOST)).all()):
                rest, shares = others.logsumexp(dim=-1, keepdim=True), shares.nan_to_num(nan=float("-inf"))
            ctx.save_for_backward(shares, ids)
            return kept, rest

        @staticmethod
        def backward(ctx: Any, *above: torch.Tensor) -> Any:
            """Return the gradient with respect to the scores."""
            shares, ids = ctx.saved_tensors
            return shares.exp().mul_(above[1]).scatter_(-1, ids, above[0]), None

    return Parted


def _first_free(ids: torch.Tensor) -> torch.Tensor:
    """Return for each row the smallest choice that is not kept ``(rows, 1)``."""
    candidates = torch.arange(ids.shape[-1] + 1, device=ids.device)
    taken = torch.zeros(len(ids), len(candidates) + 1, dtype=torch.bool, device=ids.device)
    taken.scatter_(-1, ids.clamp_max(len(candidates)), True)
    return taken.int().argmin(dim=-1, keepdim=True)
