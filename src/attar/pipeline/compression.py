"""Compress the student step by step: who it listens to while it recovers, and which steps there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attar import catalog
from attar.core.nouns import Teacher
from attar.objectives.learned import features_of
from attar.pipeline.compress_keys import RecoverSettings, Step
from attar.pipeline.crossing import across
from attar.pipeline.names import numbered
from attar.pipeline.texts import splits
from attar.seeds import derive
from attar.stages import assets
from attar.stages.compress import Bench, inputs_of, untouched
from attar.stages.compress import compress as apply
from attar.stages.lesson import Lesson
from attar.stages.recover import uncompressed, within
from attar.stages.schedule import TrainSettings

if TYPE_CHECKING:
    from attar.pipeline.recipe import Recipe
    from attar.pipeline.works import Desk

Term = tuple[Any, str, Mapping[str, Any]]
"""Weight, name and settings of an objective."""


def listens_to_record(recipe: Recipe, recovery: RecoverSettings) -> bool:
    """Tell whether a recovery learns from the teacher's record, rather than from the uncompressed student."""
    return recovery.teacher != "self" and recipe.distill.on_policy is None


def run_step(desk: Desk, place: int, steps: tuple[Step, ...]) -> dict[str, Any]:
    """Do the step at a place, from 1, and let the model recover from it.

    Args:
        desk: of the stage.
        place: of the step among those that work on the model.
        steps: all of them; where there are fewer than ``place`` the model stays as it is.
    """
    source = desk.inputs[numbered("compress", place - 1) if place > 1 else "student"].folder
    if place > len(steps):
        return untouched(source, desk.content)
    step, recovery = steps[place - 1], steps[place - 1].recovery
    lesson = _lesson(desk, recovery or RecoverSettings())
    seed = derive(desk.recipe.seed, "compress", place)
    bench = Bench(source, lesson, inputs_of(desk.data()), seed, desk.work, desk.content)
    how = None if recovery is None else _training(recovery, bench, desk)
    return apply(bench, (step.use, step.settings), how, f"recovering from {step.use}", desk.recipe.device)


def _training(recovery: RecoverSettings, bench: Bench, desk: Desk) -> TrainSettings:
    """Return plain training settings: minutes are turned into steps."""
    own = recovery.training(desk.recipe.distill)
    if recovery.minutes is None:
        return own
    places = (desk.work, desk.recipe.device)
    return own.model_copy(update={"steps": within(recovery.minutes, bench.lesson, bench.source, own, places)})


def _lesson(desk: Desk, recovery: RecoverSettings) -> Lesson:
    recipe = desk.recipe
    task = assets.task(recipe.task)
    student = desk.inputs["student"]
    if listens_to_record(recipe, recovery):
        said: Teacher = desk.heard()
        named: Teacher = desk.recorded() if "record" in desk.inputs else said
        if recipe.writes and "teacher" in desk.inputs:
            said, _ = across(said, (desk.inputs["teacher"].folder, student.folder), recipe)
        terms: Sequence[Term] = [(term.weight, term.use, term.settings) for term in recipe.distill.objective]
    else:
        said = named = uncompressed(student.folder, task, student.key, recipe.writes, recipe.device)
        terms = [(1.0, "forward_kl", {})]
    train, validation = (assets.with_targets(part, named) for part in splits(desk, False))
    return Lesson(task, train, validation, assets.objective_of(_told(terms)), said)


def _told(terms: Sequence[Term]) -> Sequence[Term]:
    """Return the terms that compare answers: layers that a step cut are not there to be compared."""
    kept = [term for term in terms if not features_of(assets.objective_of([term]))[1]]
    return kept if any(not _hard(name) for _, name, _ in kept) else [*kept, (1.0, "forward_kl", {})]


def _hard(name: str) -> bool:
    return bool(catalog.entry("objective", name).needs == {"hard"})
