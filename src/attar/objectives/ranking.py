"""Keep the teacher's order of its best choices: listwise, pairwise and margin losses for long catalogues."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows
from attar.objectives.pairs import both, has, mean_where_said, parted, scores
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Ranking:
    """Score the teacher's best choices in the teacher's order; how far apart they are does not count.

    With π₁ … πₖ the teacher's best choices and z the student's scores, a row's loss is

    - ``listwise`` (Plackett–Luce, ListMLE of the top k): the mean over places i of
      ``log Σ exp(z of all choices but π₁ … πᵢ₋₁) - z(πᵢ)``; choices outside the top k only compete;
    - ``pairwise``: the mean over pairs i before j of ``log(1 + exp(z(πⱼ) - z(πᵢ)))``;
    - ``margin``: the mean over pairs i before j of ``max(0, margin - z(πᵢ) + z(πⱼ))``.

    Choices that the teacher scores alike are no pair; one that it rules out (-inf), or that the student lacks, takes
    no place. There is no temperature and no T²: an order has none. It is not 0 where student and teacher agree.

    A ``top`` record holds all that is needed of the teacher: its value is that of the whole distribution, if ``top``
    choices were kept; of fewer, all are taken. The mass of the rest is not used.

    Args:
        settings: see `Ranking.Settings`.

    Reference:
        Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", 2008, section 4 (listwise);
        Burges et al., "Learning to Rank using Gradient Descent", 2005, equation 3 (pairwise);
        Tang and Wang, "Ranking Distillation", 2018, section 3 (the teacher's top items as a list).

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> teacher = example_rows(torch.tensor([1]), torch.tensor([[3.0, 1.0, 2.0]]))
        >>> student = example_rows(torch.tensor([1]), torch.zeros(1, 3))
        >>> objective = Ranking(Ranking.Settings(kind="pairwise"))
        >>> round(float(objective(student, teacher, torch.tensor([-1])).total), 4)  # ln 2
        0.6931
    """

    name: ClassVar[str] = "ranking"
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset({"top"})
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = False

    class Settings(Settings):
        """Set what is ranked, and how."""

        kind: Literal["listwise", "pairwise", "margin"] = Field("listwise", description="how an order is judged")
        top: int = Field(10, ge=1, le=256, description="how many of the teacher's best choices are put in order")
        margin: float = Field(1.0, gt=0, le=1000, description="least distance of two scores, for kind margin")

    def __init__(self, settings: Ranking.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order.

        Raises:
            ValueError: there are no teacher's rows.
        """
        if teacher is None:
            raise ValueError("ranking needs the teacher's rows")
        ours, ids, worth = best(student, teacher, self.settings.top)
        if self.settings.kind == "listwise":
            values = listwise(ours, ids, torch.isfinite(worth))
        else:
            values = self._pairs(parted(ours, ids)[0], worth)
        loss = mean_where_said(values, student, teacher)
        return Loss(loss, {self.name: loss.detach()})

    def _pairs(self, kept: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
        """Return the mean over all pairs whose first the teacher prefers ``(rows,)``."""
        behind = kept[:, None, :] - kept[:, :, None]
        if self.settings.kind == "pairwise":
            values = torch.nn.functional.softplus(behind)
        else:
            values = (self.settings.margin + behind).clamp_min(0)
        preferred = (worth[:, :, None] > worth[:, None, :]) & torch.isfinite(worth)[:, None, :]
        return torch.where(preferred, values, 0.0).sum(dim=(1, 2)) / preferred.sum(dim=(1, 2)).clamp_min(1)


def best(student: Rows, teacher: Rows, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the student's scores ``(rows, choices)`` and the teacher's best choices.

    Args:
        student: rows with scores of every choice.
        teacher: rows with scores of every choice, or with the likeliest.
        count: how many are wanted; fewer come where fewer are known.

    Returns:
        ``ours``: the student's scores; ``ids (rows, count)``: the best, first the very best; ``worth (rows, count)``:
        the teacher's scores of these.

    Raises:
        ValueError: the teacher's rows hold a sample, from which no order can be told.
    """
    if teacher.top is None:
        ours, theirs = both(student, teacher)
        worth, ids = theirs.topk(min(count, theirs.shape[-1]), dim=-1)
        return ours, ids, worth
    ours = scores(student)[..., : teacher.top.choices]
    known = teacher.top.log_p.masked_fill(~has(ours, teacher.top.ids), float("-inf"))
    worth, places = known.topk(min(count, known.shape[-1]), dim=-1)
    return ours, teacher.top.ids.gather(-1, places), worth


def listwise(ours: torch.Tensor, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the mean over places of the negative log-likelihood that the place's choice comes next ``(rows,)``.

    Args:
        ours: ``(rows, choices)`` scores.
        ids: ``(rows, k)`` choices in order.
        known: ``(rows, k)`` which places count.
    """
    kept, rest = parted(ours, ids)
    left, count = torch.cat([kept, rest], dim=-1), ids.shape[-1]
    # line i of the square holds what is left when i choices are taken: never nothing
    taken = torch.ones(count, count + 1, dtype=torch.bool, device=ours.device).tril(-1)
    among = left[:, None, :].masked_fill(taken, float("-inf")).logsumexp(dim=-1)
    return torch.where(known, among - kept, 0.0).sum(dim=-1) / known.sum(dim=-1).clamp_min(1)
