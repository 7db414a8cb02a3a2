"""Turn a recipe into a graph of stages with content keys; loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline import works
from attar.pipeline.keys import data_key, machine, model_key
from attar.pipeline.recipe import Recipe
from attar.pipeline.works import Desk
from attar.store.artifacts import make_key

VERSIONS = {
    "data": 1,
    "weights": 1,
    "teacher": 1,
    "prompt": 1,
    "record": 1,
    "control": 1,
    "student": 1,
    "compress": 1,
    "export": 1,
    "measure": 1,
}
"""Raised when a stage's code changes what it gives: old results are then not taken for new ones."""


@dataclass(frozen=True)
class Stage:
    """Name one stage of a run.

    Args:
        name: unique in the run.
        key: content key of its result.
        parents: names of the stages whose results it reads.
        work: does it: reads a `Desk`, leaves files in its content folder, returns the artifact's card.
        title: for people.
    """

    name: str
    key: str
    parents: tuple[str, ...]
    work: Callable[[Desk], dict[str, Any]]
    title: str


class _Builder:
    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe, self.base = recipe, base
        self.stages: dict[str, Stage] = {}

    def add(self, name: str, title: str, settings: Mapping[str, Any], *parents: str) -> None:
        """Add a stage whose parents are there already."""
        inputs = {parent: self.stages[parent].key for parent in parents}
        key = make_key(stage=name, version=VERSIONS[name], settings=dict(settings), inputs=inputs)
        self.stages[name] = Stage(name, key, parents, getattr(works, name), title)


def build(recipe: Recipe, base: Path) -> dict[str, Stage]:
    """Return the stages of a recipe by name, each after its parents.

    Args:
        recipe: a valid recipe.
        base: the folder its paths are relative to.

    Raises:
        AttarError: a source's content cannot be told (a missing file, a hub that cannot be reached).
    """
    graph = _Builder(recipe, base)
    graph.add("data", "Read and split the data", data_key(recipe, base))
    teacher = _add_teacher(graph)
    measure = recipe.measure.model_dump(mode="json")
    own = {"own_prompt_examples": recipe.measure.own_prompt_examples} if recipe.prompted else {}
    precision = {"precision": recipe.teacher.precision, **_numerics()}
    graph.add("record", "Record the teacher's answers", {**precision, **own}, "data", *teacher)
    train = recipe.distill.model_dump(mode="json", exclude={"objective", "control", "checkpoint_seconds"})
    origin = {"model": model_key(recipe.student, base), "train": train, "seed": recipe.seed, **_numerics()}
    if recipe.distill.control:
        graph.add("control", "Train the control without the teacher", origin, "data", "record")
    objective = [term.model_dump(mode="json") for term in recipe.distill.objective]
    graph.add("student", "Distill the student", {**origin, "objective": objective}, "data", "record")
    steps = [step.model_dump(mode="json") for step in recipe.compress]
    graph.add("compress", "Compress the student", {"steps": steps}, "data", "student")
    export = {"steps": steps, "to": recipe.export.to, "libraries": machine()}
    graph.add("export", "Export the bundle", export, "data", "compress")
    models = (
        ("control", "student", "compress", "export") if recipe.distill.control else ("student", "compress", "export")
    )
    graph.add(
        "measure",
        "Measure every model",
        {"measure": measure, "seed": recipe.seed, "machine": machine()},
        "data",
        *teacher,
        "record",
        *models,
    )
    return graph.stages


def _numerics() -> dict[str, Any]:
    """Return what the numbers of training and answering depend on besides the settings."""
    facts = machine()
    return {"torch": facts["torch"], "transformers": facts["transformers"], "processor": facts["processor"]}


def _add_teacher(graph: _Builder) -> tuple[str, ...]:
    recipe, base = graph.recipe, graph.base
    weights = model_key(recipe.teacher, base)
    if not recipe.prompted:
        train = recipe.teacher.train
        settings = {} if train is None else train.model_dump(mode="json", exclude={"checkpoint_seconds"})
        graph.add(
            "teacher",
            "Train the teacher",
            {"model": weights, "train": settings, "seed": recipe.seed, **_numerics()},
            "data",
        )
        return ("teacher",)
    graph.add("weights", "Fetch the teacher's weights", {"weights": weights})
    prompt = {
        "prompt": recipe.prompt.teacher.model_dump(mode="json"),
        "seed": recipe.seed,
        "precision": recipe.teacher.precision,
    }
    graph.add("prompt", "Find the teacher's prompt", {**prompt, **_numerics()}, "data", "weights")
    return ("weights", "prompt")
