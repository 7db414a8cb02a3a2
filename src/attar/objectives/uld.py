"""Compare distributions over different vocabularies: by the rank of their probabilities, not by what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.nouns import Loss, Signal
from attar.core.rows import Rows, weighted_mean
from attar.objectives.pairs import has, scores
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class UniversalLogitDistillation:
    """Average ``T · Σ |p - q|`` over rows: p and q, softened by T, each sorted, so that rank is compared with rank.

    The shorter of two vocabularies is filled up with zeros. Rows that hold the likeliest choices and the rest are
    compared by as many of the student's likeliest, and by the rest. The factor is T, not T²: this distance has a
    slope everywhere, so its gradient shrinks with T once only.

    What it throws away: which choice is likely. A student that is as sure as the teacher of something else has loss
    0, and any renaming of its choices leaves the loss as it was; it teaches how sure to be and relies on another
    objective, such as cross-entropy, for of what. Where vocabularies share most of the mass, rows of
    `attar.teachers.aligned.AlignedTeacher` with `forward_kl` say more: there choices of equal bytes are compared. This
    objective is for what is then left over (``hybrid``), and for vocabularies that share little.

    With ``hybrid``, choices that the student has too are compared each with itself, and by rank alone those with id
    -1, which the student lacks, against the student's likeliest others. Rows with scores of every choice are then
    compared choice by choice, as far as both go.

    A row counts as much as the student's weight times the teacher's, and the mean is over the student's weights.

    Args:
        settings: see `UniversalLogitDistillation.Settings`.

    Reference:
        Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs", 2024,
        section 3. The hybrid follows Hugging Face, "Unlocking On-Policy Distillation for Any Model Family", 2025.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> teacher = example_rows(torch.tensor([1]), torch.tensor([[0.2, 0.7, 0.1]]).log())
        >>> student = example_rows(torch.tensor([1]), torch.tensor([[0.6, 0.4]]).log())
        >>> objective = UniversalLogitDistillation(UniversalLogitDistillation.Settings())
        >>> round(float(objective(student, teacher, torch.tensor([-1])).total), 4)
        0.4
    """

    name: ClassVar[str] = "uld"
    needs: ClassVar[frozenset[Signal]] = frozenset({"logits"})
    settles_for: ClassVar[frozenset[Signal]] = frozenset({"top"})
    by_row: ClassVar[bool] = True
    divergence: ClassVar[bool] = True

    class Settings(Settings):
        """Set the softening, and what is compared by rank."""

        temperature: float = Field(1.0, gt=0, le=1000, description="divides both logits; > 1 shows the small ones")
        hybrid: bool = Field(False, description="compare choices that both have each with itself")
        matched_weight: float = Field(1.0, ge=0, le=1e6, description="of the choices that both have (hybrid)")
        unmatched_weight: float = Field(1.0, ge=0, le=1e6, description="of the choices compared by rank")

    def __init__(self, settings: UniversalLogitDistillation.Settings) -> None:
        self.settings = settings

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss; ``teacher`` holds rows of the same keys in the same order, over any choices.

        Raises:
            ValueError: there are no teacher's rows, or they hold a sample or not this temperature.
        """
        if teacher is None:
            raise ValueError("uld needs the teacher's rows")
        teacher = teacher.to(student.key.device)
        matched, unmatched = self._of_rows(student, teacher)
        scale = self.settings.temperature * teacher.weight.to(matched.dtype)
        sums = [weighted_mean(part * scale, student.weight) for part in (matched, unmatched)]
        loss = self.settings.matched_weight * sums[0] + self.settings.unmatched_weight * sums[1]
        parts = {"uld": loss.detach()}
        if self.settings.hybrid:
            parts |= {"uld_matched": sums[0].detach(), "uld_unmatched": sums[1].detach()}
        return Loss(loss, parts)

    def _of_rows(self, student: Rows, teacher: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distance of each row ``(rows,)`` over choices with an equal one, and over those by rank."""
        q = torch.softmax(scores(student) / self.settings.temperature, dim=-1)
        if teacher.top is not None:
            log_p, rest = teacher.top.softened(self.settings.temperature)
            return self._of_top(q, log_p.exp().to(q.dtype), rest.exp().to(q.dtype), teacher.top.ids)
        p = torch.softmax(scores(teacher) / self.settings.temperature, dim=-1).to(q.dtype)
        none = q.new_zeros(len(q))
        return (_distance(p, q), none) if self.settings.hybrid else (none, _distance(_ranked(p), _ranked(q)))

    def _of_top(
        self, q: torch.Tensor, p: torch.Tensor, rest: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both distances; ``p (rows, k)`` and ``rest (rows,)`` are the teacher's, ``ids`` the student's."""
        same = has(q, ids) & self.settings.hybrid
        # an extra place of probability 0 takes the ids that are none
        wide = torch.nn.functional.pad(q, (0, 1))
        place = torch.where(same, ids, q.shape[-1])
        own = wide.gather(-1, place)
        matched = ((p - own).abs() * same).sum(dim=-1)
        others = wide.scatter(-1, place, 0.0)
        likeliest = others.topk(min(p.shape[-1], others.shape[-1]), dim=-1).values
        count = torch.arange(likeliest.shape[-1], device=q.device) < (~same).sum(dim=-1, keepdim=True)
        likeliest = likeliest * count
        left = 1.0 - own.sum(dim=-1) - likeliest.sum(dim=-1)
        unmatched = _distance(_ranked(p * ~same), likeliest) + (rest - left).abs()
        return matched, unmatched


def _ranked(p: torch.Tensor) -> torch.Tensor:
    return p.sort(dim=-1, descending=True).values


def _distance(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return ``Σ |p - q|`` of each row, the shorter filled up with zeros."""
    shared = min(p.shape[-1], q.shape[-1])
    beyond = p[..., shared:].sum(dim=-1) + q[..., shared:].sum(dim=-1)
    return (p[..., :shared] - q[..., :shared]).abs().sum(dim=-1) + beyond
