"""Pull a model towards a second record, beside the one that its lesson's teacher reads from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Loss, Objective, Signal
from attar.core.rows import Rows
from attar.optional import lazy
from attar.teachers.recorded import RecordedTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Toward:
    """Judge rows by what a record says of them, whoever the lesson's teacher is.

    So a sum can pull towards two records at once: the lesson's teacher, and this one. Rows find theirs by key, in any
    block and any order.

    Args:
        objective: compares rows with the record's; a mean over rows.
        spoken: the record.
        name: of the part in the loss.
    """

    divergence: ClassVar[bool] = False  # 0 where rows agree with the record, not where they agree with the teacher

    def __init__(self, objective: Objective, spoken: RecordedTeacher, name: str) -> None:
        if not objective.by_row:
            raise ValueError("a record beside the teacher is for objectives that are means over rows")
        self.objective, self.spoken, self.name = objective, spoken, name
        self.needs: frozenset[Signal] = objective.needs
        self.settles_for: frozenset[Signal] = objective.settles_for
        self.by_row = True

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss against the record; ``teacher`` is passed over."""
        loss = self.objective(student, rows_at(self.spoken, student.key), targets)
        return Loss(loss.total, {self.name: loss.total.detach()})


def rows_at(spoken: RecordedTeacher, key: torch.Tensor) -> Rows:
    """Return a record's rows at some keys ``(rows, 2)``, in their order.

    Raises:
        ValueError: the record has other rows of these examples.
    """
    wanted = key.cpu().numpy()
    keys, which = np.unique(wanted[:, 0], return_inverse=True)
    rows = spoken.answer(Examples(keys, [""] * len(keys), np.full(len(keys), UNKNOWN)))
    known = rows.key.numpy()
    wide = 1 + max(wanted[:, 1].max(initial=0), known[:, 1].max(initial=0))
    have, want = np.searchsorted(keys, known[:, 0]) * wide + known[:, 1], which * wide + wanted[:, 1]
    if not np.isin(want, have).all():
        raise ValueError("a record has other rows than are asked of it: their keys differ")
    order = np.argsort(have, kind="stable")
    return rows.take(torch.from_numpy(order[np.searchsorted(have[order], want)])).to(key.device)
