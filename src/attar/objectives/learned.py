"""Gather what the objectives of a sum read and learn, for the loop that trains with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attar.core.rows import Rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def walk(objective: Any) -> Iterator[Any]:
    """Yield the objectives of a sum, of sums within it too; of a single one, itself."""
    terms = getattr(objective, "terms", None)
    if terms is None:
        yield objective
        return
    for _, term in terms:
        yield from walk(term)


def features_of(objective: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the features that an objective reads of the student, and of the teacher.

    Example:
        >>> from attar.objectives.hidden import HiddenStates
        >>> ours, theirs = features_of(HiddenStates(HiddenStates.Settings()))
        >>> sorted(ours), sorted(theirs)
        (['hidden:-1'], ['hidden:-1'])
    """
    empty: frozenset[str] = frozenset()
    ours = (getattr(one, "student_features", empty) for one in walk(objective))
    theirs = (getattr(one, "teacher_features", empty) for one in walk(objective))
    return empty.union(*ours), empty.union(*theirs)


def needs_whole_batch(objective: Any) -> bool:
    """Tell whether the loss depends on which examples stand together, so that the batch must not be cut."""
    return any(getattr(one, "whole_batch", False) for one in walk(objective))


def build_modules(objective: Any, student: Rows, teacher: Rows) -> torch.nn.ModuleList:
    """Make what the objectives learn beside the student, and return it; see `FeatureObjective.build`.

    Args:
        objective: one, or a sum of many.
        student: rows with the features of `features_of`, of any examples.
        teacher: rows with theirs, of the same examples.
    """
    for one in walk(objective):
        if hasattr(one, "build"):
            one.build(student, teacher)
    return modules_of(objective)


def modules_of(objective: Any) -> torch.nn.ModuleList:
    """Return what the objectives learn beside the student, in order; empty where nothing is learned."""
    found = [getattr(one, "module", None) for one in walk(objective)]
    return torch.nn.ModuleList([one for one in found if isinstance(one, torch.nn.Module)])
