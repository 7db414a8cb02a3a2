"""Choose the texts that a model which writes learns from: gold ones, its teacher's, or its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attar import catalog
from attar.core.examples import Examples
from attar.errors import Mistake
from attar.objectives.ramp import Ramp
from attar.pipeline.recipe import DistillSettings, Recipe
from attar.seeds import derive
from attar.sources import data as sources
from attar.stages.device import choose_device, choose_precision, precision_name
from attar.stages.generations import TextSettings, generations
from attar.stages.schedule import Schedule
from attar.store.files import remove
from attar.students import folder as students

if TYPE_CHECKING:
    from attar.pipeline.works import Desk


def write_texts(desk: Desk) -> dict[str, Any]:
    """Let the teacher write for the training texts, and for those of validation whose gold may not be used.

    What it leaves is a data set whose ``train`` holds the teacher's texts as targets.

    Returns:
        The artifact's card: facts of `attar.stages.generations.generations` by split, and the precision.
    """
    recipe, found = desk.recipe, desk.data()
    device = choose_device(recipe.device)
    dtype = choose_precision(recipe.teacher.precision, device)
    model = students.load(desk.inputs["teacher"].folder)
    model.module.to(device, dtype)
    best = recipe.distill.text.model_copy(update={"keep": 1})
    asked = {"train": recipe.distill.text} | ({} if "validation" in found.gold else {"validation": best})
    written: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, settings in asked.items():
        seed = derive(recipe.seed, "write", name)
        written[name], facts[name] = generations(model, found.split(name), settings, seed, desk.work / name)
    remove(desk.content)
    desk.content.mkdir(parents=True)
    sources.save(replace(found, gold=found.gold | frozenset(asked), **written), desk.content)
    return {"facts": facts, "precision": precision_name(dtype)}


def splits(desk: Desk, control: bool) -> tuple[Examples, Examples]:
    """Return the training and validation examples of a model.

    Args:
        desk: of the stage that trains it.
        control: it learns without the teacher, so from gold wherever there is some.
    """
    found, taught = desk.data(), desk.taught()
    train = found if control and "train" in found.gold else taught
    return train.split("train"), taught.split("validation")


def equal_steps(settings: DistillSettings, examples: int) -> DistillSettings:
    """Return the settings with the steps of so many examples: a student that has more texts takes no more steps.

    Args:
        settings: of student and control.
        examples: of the data's own training split.
    """
    return settings.model_copy(update={"steps": Schedule(np.ones(examples), settings, 0).steps})


def text_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield what is wrong with the texts that the recipe's student learns from."""
    distill = recipe.distill
    if not recipe.writes:
        if distill.text != TextSettings():  # a run's own recipe.yaml spells the default out
            yield Mistake("distill.text", f"is for tasks that write; {recipe.task} has labels. Leave it out.")
        if distill.on_policy is not None:
            yield Mistake("distill.on_policy", f"is for tasks that write; {recipe.task} has labels. Leave it out.")
        return
    hidden = [name for name in ("train", "validation") if name not in recipe.data.gold]
    if hidden and distill.text.use == "gold":
        yield Mistake(
            "distill.text", f"must be teacher where data.gold does not hold '{hidden[0]}': no text is known there."
        )
    if distill.text.use == "gold" and distill.text != TextSettings():
        yield Mistake("distill.text.use", "must be teacher with keys of how it writes; gold texts are there already.")
    if distill.on_policy is not None:
        yield from _on_policy_mistakes(recipe)


def _on_policy_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    distill = recipe.distill
    if distill.record.use != "auto":
        yield Mistake(
            "distill.record", "keeps a teacher's answers, and with on_policy the teacher answers live. Leave one out."
        )
    terms = [term for term in distill.objective if isinstance(term.weight, Ramp) or term.weight > 0]
    if all(catalog.entry("objective", term.use).needs == {"hard"} for term in terms):
        yield Mistake(
            "distill.on_policy",
            "needs an objective that listens to the teacher: hard targets say nothing of a student's own texts. Add "
            "one, such as reverse_kl, to distill.objective.",
        )
    if recipe.assistants:
        yield Mistake(
            "distill.on_policy",
            "goes with one teacher and one student. Leave out assistant, and distill.generations above 1.",
        )
