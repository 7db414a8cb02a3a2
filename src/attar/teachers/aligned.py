"""Answer a student of another tokenizer: in its positions and its choices, wherever the two can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from attar.core.examples import Examples
from attar.core.nouns import Signal, Teacher
from attar.core.rows import Rows, Top
from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings
from attar.teachers.alignment import Cut, TokenizerCut, align, find_rows, positions
from attar.teachers.token_bytes import vocabulary_map

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BLOCK_BYTES = 64 * 2**20
"""Most memory for the teacher's scores that are laid out at once, in float32."""


@dataclass(frozen=True)
class Crossing:
    """Hold what leads from one tokenizer to another.

    Args:
        teacher: says where the teacher's tokens begin in a completion.
        student: says where the student's tokens begin.
        vocabulary: ``(teacher's choices,)`` int64, the student's id of each of the teacher's tokens, or -1.
        choices: how many choices a row of the student has.
        identity: equal only for crossings that do the same to every row.
    """

    teacher: Cut
    student: Cut
    vocabulary: np.ndarray
    choices: int
    identity: str

    def facts(self) -> Mapping[str, float]:
        """Return the share of each vocabulary that the other one has, padding counted in."""
        matched = int((self.vocabulary >= 0).sum())
        return {"teacher_ids_matched": matched / len(self.vocabulary), "student_ids_matched": matched / self.choices}


def cross(teacher: TokenizerCut, student: TokenizerCut, widths: tuple[int, int]) -> Crossing:
    """Return what leads from the teacher's tokenizer to the student's.

    Args:
        teacher: cuts completions as the teacher's task does.
        student: cuts completions as the student's task does.
        widths: how many choices a row of the teacher and one of the student have.
    """
    vocabulary = vocabulary_map(teacher.tokenizer, student.tokenizer, widths[0])
    identity = hashlib.sha256(f"{teacher.identity}\n{student.identity}\n{widths}".encode()).hexdigest()
    return Crossing(teacher, student, vocabulary, widths[1], identity)


class AlignedTeacher:
    """Let a teacher answer in the positions and choices of a student that cuts text otherwise.

    The student's row at a byte of the completion is compared with the teacher's row at the same byte: both say what
    comes after the same text. Where the teacher's tokens do not begin at that byte, the row has weight 0. A choice of
    the teacher goes to the student's choice of the same bytes. The answer has the form ``top``: the likeliest choices
    that the student has, and all others as the rest, exact at each temperature kept.

    Of a live teacher, the choices kept are the likeliest that the student has. A ``top`` record is taken with what it
    kept: a choice that the student lacks has id -1 and its own log-probability, and counts to the rest. One record so
    serves students of every tokenizer.

    Args:
        inner: answers with a row a token of the completion, as scores of every choice or as ``top``.
        crossing: leads from its tokenizer to the student's.
        settings: see `AlignedTeacher.Settings`; the defaults if None.

    Raises:
        AttarError: the inner teacher gives neither scores nor likeliest choices.
    """

    class Settings(Settings):
        """Set what is kept of a teacher's row."""

        k: int = Field(64, ge=1, le=65536, description="likeliest choices kept that the student has too")
        unmatched: int = Field(0, ge=0, le=65536, description="likeliest choices kept that the student lacks, as id -1")
        temperatures: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
            (1.0, 2.0), min_length=1, description="temperatures at which the rest is kept exactly"
        )

    def __init__(self, inner: Teacher, crossing: Crossing, settings: AlignedTeacher.Settings | None = None) -> None:
        if not inner.gives & {"logits", "top"}:
            raise AttarError(
                "A teacher of another tokenizer must give scores of tokens or the likeliest of them; this one gives "
                f"{', '.join(sorted(inner.gives)) or 'nothing'}. Train on texts that it writes instead."
            )
        self.inner = inner
        self.crossing = crossing
        self.settings = settings or self.Settings()
        kept = f"{inner.fingerprint}\n{crossing.identity}\n{self.settings.model_dump_json()}"
        self.fingerprint = hashlib.sha256(kept.encode()).hexdigest()
        self.gives: frozenset[Signal] = frozenset({"top"})

    def answer(self, examples: Examples) -> Rows:
        """Return one row for each token of the student's completions, in the examples' order.

        Raises:
            ValueError: the teacher's rows have other choices than the vocabulary map.
        """
        said = self.inner.answer(examples)
        if said.choices != len(self.crossing.vocabulary):
            raise ValueError(f"rows of {said.choices} choices, and a map of {len(self.crossing.vocabulary)}")
        texts = examples.targets if examples.targets is not None else [""] * len(examples)
        ours = self.crossing.student.starts(texts)
        theirs = align(ours, self.crossing.teacher.starts(texts))
        owner = np.repeat(np.arange(len(ours)), [len(part) for part in ours])
        place = torch.from_numpy(find_rows(said.key.cpu().numpy(), examples.keys, owner, theirs)).to(said.key.device)
        top = self._top(said.take(place[place >= 0]))
        weight = said.weight.new_zeros(len(place))
        weight[place >= 0] = said.weight[place[place >= 0]]
        key = torch.from_numpy(np.stack([examples.keys[owner], positions(ours)], axis=1).astype(np.int64))
        return Rows(key.to(said.key.device), weight, top=_spread(top, place >= 0))

    def _top(self, said: Rows) -> Top:
        """Return what rows say, in the student's choices."""
        vocabulary = torch.from_numpy(self.crossing.vocabulary).to(said.key.device)
        if said.top is not None:
            return replace(said.top, ids=vocabulary[said.top.ids], choices=self.crossing.choices)
        size = max(1, BLOCK_BYTES // (4 * said.choices))
        with torch.no_grad():
            parts = [self._likeliest(said.take(block).dense().float(), vocabulary) for block in said.slices(size)]
            parts = parts or [self._likeliest(torch.zeros(0, said.choices, device=said.key.device), vocabulary)]
        rest = {value: torch.cat([part.rest[value] for part in parts]) for value in self.settings.temperatures}
        ids, log_p = torch.cat([part.ids for part in parts]), torch.cat([part.log_p for part in parts])
        return Top(ids, log_p, rest, self.crossing.choices)

    def _likeliest(self, scores: torch.Tensor, vocabulary: torch.Tensor) -> Top:
        """Return the likeliest choices of ``scores (rows, teacher's choices)`` and the exact rest."""
        matched, lost = (vocabulary >= 0).nonzero().squeeze(1), (vocabulary < 0).nonzero().squeeze(1)
        # one choice at least stays in the rest: a rest of nothing has no gradient
        k = min(self.settings.k, len(matched), scores.shape[-1] - 1, self.crossing.choices - 1)
        unmatched = min(self.settings.unmatched, len(lost), scores.shape[-1] - 1 - k)
        kept = [matched[scores[:, matched].topk(k).indices], lost[scores[:, lost].topk(unmatched).indices]]
        places = torch.cat(kept, dim=-1)
        log_p = scores.gather(-1, places) - scores.logsumexp(dim=-1, keepdim=True)
        rest = {value: _rest(scores / value, places) for value in self.settings.temperatures}
        return Top(vocabulary[places], log_p, rest, self.crossing.choices)


def _rest(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of all choices but those at ``places (rows, k)``."""
    total = scores.logsumexp(dim=-1, keepdim=True)
    inside = (scores.gather(-1, places) - total).exp().sum(dim=-1)
    others = scores.scatter(-1, places, float("-inf")).logsumexp(dim=-1) - total.squeeze(-1)
    # of two ways the one that loses no digits: by what is inside where that is little, else by what is outside
    return torch.where(inside < 0.5, torch.log1p(-inside.clamp_max(0.5)), others)


def _spread(top: Top, aligned: torch.Tensor) -> Top:
    """Return ``top`` at the rows that are aligned; the others, which have no weight, say something harmless."""
    count, width = len(aligned), top.ids.shape[1]
    ids = torch.arange(width, device=aligned.device).remainder(max(1, top.choices - 1)).repeat(count, 1)
    log_p = top.log_p.new_zeros(count, width)
    ids[aligned], log_p[aligned] = top.ids, top.log_p
    rest = {}
    for temperature, value in top.rest.items():
        rest[temperature] = value.new_full((count,), -0.7)
        rest[temperature][aligned] = value
    return Top(ids, log_p, rest, top.choices)


@dataclass(frozen=True)
class Coverage:
    """Say how much of a teacher reaches a student of another tokenizer.

    Args:
        rows: share of the student's rows that have a row of the teacher.
        mass: mean probability, at temperature 1, of the choices kept that the student has, over those rows.
    """

    rows: float
    mass: float


def coverage(rows: Rows) -> Coverage:
    """Measure what an `AlignedTeacher` answered; it must have kept temperature 1.

    Example:
        >>> import torch
        >>> top = Top(torch.tensor([[4, -1]]), torch.tensor([[0.5, 0.25]]).log(), {1.0: torch.tensor([0.25]).log()}, 9)
        >>> coverage(Rows(torch.tensor([[7, 0]]), torch.ones(1), top=top))
        Coverage(rows=1.0, mass=0.5)
    """
    if rows.top is None:
        raise ValueError("coverage is told of rows that hold the likeliest choices and the rest")
    aligned = rows.weight > 0
    kept = rows.top.softened(1.0)[0].exp() * (rows.top.ids >= 0)
    mass = kept.sum(dim=-1)[aligned]
    return Coverage(float(aligned.float().mean()) if len(rows) else 0.0, float(mass.mean()) if len(mass) else 0.0)
