"""Bring a teacher nearer to its student: who the teacher is under its prompt, and the round that is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.errors import Mistake
from attar.pipeline.recipe import DistillSettings, Recipe
from attar.seeds import derive
from attar.stages import assets, tune
from attar.stages.record import RecordSettings
from attar.store.files import remove
from attar.students import folder as students
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    from attar.pipeline.works import Desk


def briefly(settings: DistillSettings, steps: int) -> DistillSettings:
    """Return how the first student is trained, whom the teacher sees: a share of the steps, and nothing but distilled.

    Args:
        settings: of the student.
        steps: that the student takes.
    """
    share = 1.0 if settings.friendly is None else settings.friendly.brief
    return settings.model_copy(update={"steps": max(1, round(steps * share))})


def play(desk: Desk) -> dict[str, Any]:
    """Train the teacher's virtual tokens against the first student, and record what it says under them."""
    from attar.stages.friendly import Players, friendly_round

    recipe, found = desk.recipe, desk.taught()
    settings = recipe.distill.friendly
    if settings is None:
        raise ValueError("the recipe asks for no friendly teacher")
    players = Players(_teacher(desk), desk.inputs["brief"].folder, assets.task(recipe.task), desk.recorded())
    splits = {name: found.split(name) for name in ("train", "validation")}
    kept = RecordSettings(assets.codec_of(*recipe.codec), derive(recipe.seed, "friendly"))
    made = desk.work / "made"
    seed = derive(recipe.seed, "friendly")
    facts = friendly_round(players, splits, settings, seed, (desk.work, made), kept, recipe.device)
    remove(desk.content)
    made.rename(desk.content)
    return {**facts["record"], "prompt": facts["prompt"]}


def _teacher(desk: Desk) -> Path:
    """Return the teacher's folder as a student is kept: one that labels by a prompt answers by its label words."""
    if "teacher" in desk.inputs:
        return desk.inputs["teacher"].folder
    folder = desk.work / "teacher"
    if not (folder / students.CARD).is_file():
        asked = desk.recipe.prompt.teacher.max_tokens
        settings = ModelSettings(model="teacher", answers_by="label_words", max_length=asked)
        facts = {"prompt": tune.load(desk.inputs["prompt"].folder).prompt.to_json()}
        weights = desk.inputs["weights"].folder
        students.save(students.make(settings, weights, desk.data().labels, (), facts), folder)
    return folder


def friendly_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield what is wrong with a recipe that brings its teacher nearer to its student."""
    if recipe.distill.friendly is None:
        return
    if recipe.served or recipe.teacher.members > 1 or not (recipe.prompted or recipe.writes):
        yield Mistake("distill.friendly", "needs one language model of this process as the teacher: it learns tokens.")
    if recipe.distill.on_policy is not None or recipe.assistants:
        yield Mistake("distill.friendly", "goes without on_policy, assistants and generations. Leave one of them out.")
