"""Let models of the run answer: one alone, or the members of an ensemble together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Teacher
from attar.pipeline.recipe import Recipe
from attar.stages import assets
from attar.stages.device import choose_device
from attar.store.artifacts import Artifact
from attar.students import folder as students
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.ensemble import EnsembleTeacher
from attar.teachers.language_model import LanguageModelTeacher

if TYPE_CHECKING:
    import torch

LEAST = 1e-6
"""Weight of a member that has nothing right on the validation split."""


def combined(recipe: Recipe, models: Sequence[Artifact], dtype: torch.dtype) -> Teacher:
    """Return who answers for these models: the model itself, or an ensemble as the recipe combines it.

    Args:
        recipe: the recipe.
        models: the artifacts of trained models.
        dtype: the type they compute in.
    """
    speakers = [_speaker(recipe, made, dtype) for made in models]
    if len(speakers) == 1:
        return speakers[0]
    how = recipe.teacher.combine
    return EnsembleTeacher(speakers, how, [accuracy(made.card) for made in models] if how == "weighted" else None)


def _speaker(recipe: Recipe, made: Artifact, dtype: torch.dtype) -> Teacher:
    model, task = students.load(made.folder), assets.task(recipe.task)
    model.module.to(choose_device(recipe.device))
    if recipe.writes:
        return LanguageModelTeacher(model, task, made.key, dtype)
    return ClassifierTeacher(model, task, made.key, dtype, recipe.recorded_features)


def accuracy(card: Any) -> float:
    """Return the validation accuracy of the step whose weights were kept, never 0.

    Args:
        card: of a trained model's artifact.

    Example:
        >>> accuracy({"best_step": 2, "history": [{"step": 1}, {"step": 2, "validation": 0.75}]})
        0.75
    """
    found = [row["validation"] for row in card["history"] if row["step"] == card["best_step"] and "validation" in row]
    return max(LEAST, float(found[0])) if found else 1.0
