"""Give a student its prompt, and the compressed student the prompts that it is raced with as exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.examples import DataSet
from attar.core.prompt import TextPrompt
from attar.pipeline.names import compressed
from attar.pipeline.recipe import Recipe
from attar.prompts.bank import own_prompt
from attar.prompts.calibration import batch_calibration
from attar.seeds import derive
from attar.stages import assets, tune
from attar.stages.artifact import NONE, race_prompts
from attar.stages.lesson import Lesson
from attar.stages.prompt_dropout import PromptDropout
from attar.store.artifacts import Artifact
from attar.store.files import remove
from attar.students import folder as students
from attar.teachers.classifier import ClassifierTeacher

if TYPE_CHECKING:
    from attar.pipeline.works import Desk

STAGE = "student_prompt"
CALIBRATED_ON = 256
"""Training texts, without their labels, that a student's preferences are estimated on."""


def student_prompt(recipe: Recipe, labels: Sequence[str]) -> TextPrompt:
    """Return what a student that answers by label words reads: its own template, with the teacher's names and words."""
    mine, theirs = recipe.prompt.student, recipe.prompt.teacher
    asked = {"template": mine.template, "instruction": mine.instruction, "chat": mine.chat}
    return replace(own_prompt(theirs.model_copy(update=asked), labels), name="student")


def student_facts(recipe: Recipe, settings: Any, labels: Sequence[str]) -> dict[str, Any]:
    """Return what a model that answers by label words is to know; nothing for others."""
    if settings.answers_by != "label_words":
        return {}
    return {"prompt": student_prompt(recipe, labels).to_json()}


def student_prompt_key(recipe: Recipe, settings: Any) -> dict[str, Any]:
    """Return what the answers of a model that answers by label words depend on besides its weights."""
    if settings.answers_by != "label_words":
        return {}
    words = recipe.prompt.teacher.model_dump(mode="json", include={"input", "target", "words"})
    own = recipe.prompt.student.model_dump(mode="json", include={"template", "instruction", "chat"})
    return {"reads": {**words, **own}}


def dropout(desk: Desk) -> PromptDropout | None:
    """Return what has a student read some examples under its teacher's prompt, if the recipe asks for it."""
    settings = desk.recipe.distill.prompt_dropout
    whole = None if settings is None else _teachers(desk)
    if settings is None or whole is None:
        return None
    if desk.recipe.writes:
        return PromptDropout(settings, whole)
    own = student_prompt(desk.recipe, desk.data().labels)
    if whole.chat != own.chat:  # an answer would begin with another token than under the student's own
        whole = replace(own, instruction=whole.instruction, demonstrations=whole.demonstrations, name=whole.name)
    return PromptDropout(settings, replace(whole, words=own.words))


def make_candidates(desk: Desk, lesson: Lesson) -> dict[str, Any]:
    """Write a folder for each prompt that the compressed student is raced with.

    Args:
        desk: of the stage.
        lesson: the student's own, which virtual tokens learn too.
    """
    from attar.prompts.kinds.settings import SoftSettings
    from attar.stages.soft import PromptStart, train_prompt

    recipe, found, source = desk.recipe, desk.data(), desk.inputs[compressed(desk.inputs)].folder
    mine = recipe.prompt.student
    facts: dict[str, Any] = {}
    for name in mine.race:
        content = desk.work / "made" / name
        if name in mine.virtual:
            settings = SoftSettings(kind=name, length=mine.length)
            start = PromptStart(source, settings, _beginning(desk, found))
            seed = derive(recipe.seed, STAGE, name)
            places = (desk.work / name, content)
            title = f"training a {name} prompt"
            facts[name] = train_prompt(start, lesson, mine.train, seed, places, title, recipe.device)
        else:
            model = students.load(source)
            own = TextPrompt.from_json(model.facts["prompt"])
            asked = _teachers(desk) if name == "text" else own.calibrated(_bias(model, recipe, found))
            model.facts["prompt"] = replace(asked or own, words=own.words).to_json()
            students.save(model, content)  # loading it again looks its words up
            facts[name] = {"prompt": model.facts["prompt"]}
    remove(desk.content)
    (desk.work / "made").rename(desk.content)
    return {"candidates": facts}


def _teachers(desk: Desk) -> TextPrompt | None:
    """Return the prompt that was found for the teacher, uncalibrated, if one was looked for."""
    return tune.load(desk.inputs["prompt"].folder).prompt.calibrated(None) if "prompt" in desk.inputs else None


def _beginning(desk: Desk, found: DataSet) -> TextPrompt | None:
    """Return what virtual tokens begin as: what the teacher's prompt says before the example, if it says something."""
    asked = _teachers(desk)
    reads = desk.recipe.student.answers_by == "label_words"
    if not reads or asked is None or not (asked.instruction or asked.demonstrations):
        return None
    own = student_prompt(desk.recipe, found.labels)
    return replace(own, instruction=asked.instruction, demonstrations=asked.demonstrations)


def _bias(model: Any, recipe: Recipe, found: DataSet) -> tuple[float, ...]:
    texts = found.train.take(np.arange(min(CALIBRATED_ON, len(found.train))))
    said = ClassifierTeacher(model, assets.task(recipe.task), "").answer(texts).dense().float().numpy()
    return batch_calibration(said)


def race(desk: Desk, steps: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Race the candidates as exported, and leave the winner's bundle."""
    made, data = desk.inputs[STAGE].folder, desk.data()
    seen = data.split("validation")
    if "validation" not in data.gold:  # then the teacher says what is right
        seen = assets.with_targets(seen, desk.recorded())
    found = race_prompts(
        {NONE: desk.inputs[compressed(desk.inputs)].folder}
        | {str(name): made / name for name in desk.recipe.prompt.student.race},
        desk.recipe.task,
        steps,
        replace(data, validation=seen),
        desk.recipe.prompt.student,
        (desk.work, desk.content),
        derive(desk.recipe.seed, STAGE),
    )
    if "validation" not in data.gold:
        found["prompt"]["criterion"] = "agreement of the exported bundle with the teacher on validation"
    return found


def exported_model(inputs: Mapping[str, Artifact]) -> Path:
    """Return the folder of the model that was exported: the compressed student, or it under the prompt that won."""
    told = inputs["export"].card.get("prompt")
    if told and told["kept"]:
        return inputs[STAGE].folder / str(told["name"])
    return inputs[compressed(inputs)].folder
