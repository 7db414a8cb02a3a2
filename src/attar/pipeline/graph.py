"""Turn a recipe into a graph of stages with content keys; loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from attar.pipeline import works
from attar.pipeline.dense import wants_dense
from attar.pipeline.endpoints import endpoint_key
from attar.pipeline.keys import accelerator, data_key, machine, model_key
from attar.pipeline.names import numbered, parted
from attar.pipeline.prompt_keys import prompt_asked, prompt_read
from attar.pipeline.recipe import Recipe
from attar.pipeline.student_prompts import student_prompt_key
from attar.pipeline.target import PLANNED
from attar.pipeline.works import Desk
from attar.store.artifacts import make_key

VERSIONS = {
    "data": 1,
    "weights": 1,
    "teacher": 1,
    "prompt": 2,
    "write": 1,
    "record": 1,
    "assistant": 1,
    "record_assistant": 1,
    "brief": 1,
    "friendly": 1,
    "control": 1,
    "student": 1,
    "plan": 1,
    "dense": 1,
    "compress": 2,
    "student_prompt": 1,
    "export": 3,
    "measure": 2,
}
"""Raised when a stage's code changes what it gives: old results are then not taken for new ones."""
UNTRAINED = {
    *("objective", "control", "record", "record_features", "checkpoint_seconds"),
    *("generations", "ema", "text", "on_policy", "prompt_dropout", "friendly"),
}
"""Keys of `distill` that a control is trained without."""


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
        kind, place = parted(name)
        key = make_key(stage=name, version=VERSIONS[kind], settings=dict(settings), inputs=inputs)
        work = getattr(works, kind)
        self.stages[name] = Stage(name, key, parents, work if place == 1 else partial(work, place=place), title)


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
    planned = ("plan",) if _add_plan(graph) else ()
    teacher = _add_teacher(graph)
    measure = recipe.measure.model_dump(mode="json")
    own = {"own_prompt_examples": recipe.measure.own_prompt_examples} if recipe.prompted else {}
    precision = {
        "precision": recipe.teacher.precision,
        "codec": list(recipe.codec),
        **_numerics(recipe),
        **endpoint_key(recipe),
        **_features(recipe),
    }
    together = {"combine": recipe.teacher.combine} if recipe.teacher.members > 1 else {}
    texts = _add_texts(graph)
    live = recipe.distill.on_policy is not None  # what the student will write cannot be recorded
    record = () if live else ("record",)
    if not live:
        graph.add("record", "Record the teacher's answers", {**precision, **own, **together}, "data", *texts, *teacher)
    train = recipe.distill.model_dump(mode="json", exclude=UNTRAINED)
    origin = {"model": model_key(recipe.student, base), "train": train, "seed": recipe.seed, **_numerics(recipe)}
    origin |= {**_writing(recipe), **student_prompt_key(recipe, recipe.student)}
    watched = recipe.reads_features and not recipe.distill.record_features
    whole = "weights" if recipe.prompted else "teacher"
    seen = (whole,) if recipe.student.from_teacher or watched else ()
    if recipe.distill.control:
        without = _untaught(recipe, texts) if recipe.writes else record
        graph.add("control", "Train the control without the teacher", origin, "data", *without, *seen)
    if recipe.writes:  # the student's tokenizer may be another than the teacher's, and its file is the teacher's
        seen = ("teacher",)
    whole_prompt = ("prompt",) if recipe.distill.prompt_dropout is not None and recipe.finds_prompt else ()
    source = ("data", *texts, *record, *(teacher if live else seen), *whole_prompt)
    assistants = _add_assistants(graph, train, texts)
    heard = [f"record_{assistants[-1]}"] if assistants else []
    heard += _add_friendly(graph, {**origin, **_teaching(recipe)}, source, (*texts, *teacher))
    graph.add("student", "Distill the student", {**origin, **_teaching(recipe)}, *source, *heard)
    compressing = _add_compression(graph, (*texts, *record, *heard, *(("teacher",) if recipe.writes else ())))
    last = compressing[-1]
    raced = _add_student_prompt(graph, teacher, last)
    judge = ("record",) if raced and "validation" not in recipe.data.gold else ()
    steps = [step.model_dump(mode="json", exclude={"recover", "rounds"}) for step in recipe.compress.on_graph]
    export = {"steps": steps, "to": recipe.export.to, "libraries": machine(), **_race(recipe)}
    graph.add("export", "Export the bundle", export, "data", *planned, last, *raced, *judge)
    control = ("control",) if recipe.distill.control else ()
    beside: tuple[str, ...] = ()
    if wants_dense(recipe):
        settings = {"dense": origin, **_teaching(recipe), "libraries": machine()}
        parents = dict.fromkeys((*source, *heard, *planned, "student", *compressing, "export"))
        graph.add("dense", "Train the next smaller dense models", settings, *parents)
        beside = ("dense",)
    models = (*control, "student", *compressing, *raced, "export", *beside, *planned)
    graph.add(
        "measure",
        "Measure every model",
        {"measure": measure, "seed": recipe.seed, "machine": machine()},
        "data",
        *teacher,
        *record,
        *assistants,
        *models,
    )
    return graph.stages


def _add_friendly(
    graph: _Builder, origin: Mapping[str, Any], source: tuple[str, ...], teacher: tuple[str, ...]
) -> list[str]:
    """Add the stages that bring a teacher nearer to its student, if the recipe asks for it; return who then speaks."""
    recipe, settings = graph.recipe, graph.recipe.distill.friendly
    if settings is None:
        return []
    graph.add("brief", "Distill a first student", {**origin, "brief": settings.brief}, *source)
    asked = {"friendly": settings.model_dump(mode="json"), "codec": list(recipe.codec), "seed": recipe.seed}
    asked["max_tokens"] = recipe.prompt.teacher.max_tokens
    title = "Bring the teacher nearer to its student"
    graph.add("friendly", title, {**asked, **_numerics(recipe)}, "data", "record", *teacher, "brief")
    return ["friendly"]


def _add_plan(graph: _Builder) -> bool:
    """Add the stage that solves a target into steps, if the recipe gives one."""
    recipe = graph.recipe
    if recipe.compress.to is None:
        return False
    own = recipe.teacher if recipe.student.from_teacher else recipe.student
    model = [model_key(own, graph.base), model_key(recipe.student, graph.base)]
    settings = {"to": recipe.compress.to.model_dump(mode="json"), "model": model, "machine": machine()}
    settings |= student_prompt_key(recipe, recipe.student)
    graph.add("plan", "Find the steps that meet the target", settings, "data")
    return True


def _add_compression(graph: _Builder, heard: tuple[str, ...]) -> list[str]:
    """Add a stage for each step that works on the model, or one that changes nothing; return their names."""
    recipe, names, before = graph.recipe, list[str](), "student"
    own = {"seed": recipe.seed, **_teaching(recipe), **_numerics(recipe)}
    steps = recipe.compress.on_model
    planned = ("plan",) if "plan" in graph.stages else ()
    for place in range(1, max(1, PLANNED.get(recipe.task, 1) if planned else len(steps)) + 1):
        name, step = numbered("compress", place), steps[place - 1] if steps else None
        settings: dict[str, Any] = {"step": None}
        if planned:
            recovery = recipe.compress.recover.model_dump(exclude={"checkpoint_seconds"})
            settings = {"step": place, "recovery": recovery, **own}
        if step is not None:
            how = None if step.recovery is None else step.recovery.model_dump(exclude={"checkpoint_seconds"})
            settings = {"step": [step.use, step.settings], "recovery": how, **own}
        title = "Compress the student" if step is None else f"Compress the student: {step.use}"
        earlier = () if before == "student" else (before,)
        graph.add(name, title, settings, "data", *planned, "student", *earlier, *heard)
        names.append(name)
        before = name
    return names


def _add_student_prompt(graph: _Builder, teacher: tuple[str, ...], last: str) -> tuple[str, ...]:
    """Add the stage that makes prompts for the compressed student, if some are raced; return its name."""
    recipe = graph.recipe
    if not recipe.prompt.student.race:
        return ()
    train = recipe.prompt.student.train.model_dump(mode="json", exclude={"checkpoint_seconds"})
    asked = {"race": recipe.prompt.student.race, "length": recipe.prompt.student.length, "train": train}
    settings = {**asked, "seed": recipe.seed, **_teaching(recipe), **_numerics(recipe)}
    found = ("prompt",) if "prompt" in teacher else ()
    graph.add("student_prompt", "Make prompts for the student", settings, "data", "record", *found, last)
    return ("student_prompt",)


def _race(recipe: Recipe) -> dict[str, Any]:
    """Return what the race of a student's prompts depends on, if there is one."""
    mine = recipe.prompt.student
    return {"held_out": mine.held_out, "texts": mine.texts, "seed": recipe.seed} if mine.race else {}


def _features(recipe: Recipe) -> dict[str, Any]:
    """Return which features a record holds, if it holds any."""
    return {"features": sorted(recipe.recorded_features)} if recipe.distill.record_features else {}


def _teaching(recipe: Recipe) -> dict[str, Any]:
    """Return what a model learns by from a teacher, which its control does without."""
    ema = {} if recipe.distill.ema is None else {"ema": recipe.distill.ema.model_dump(mode="json")}
    own = recipe.distill.on_policy
    policy = {} if own is None else {"on_policy": own.model_dump(mode="json"), "precision": recipe.teacher.precision}
    dropout = recipe.distill.prompt_dropout
    read = {} if dropout is None else {"prompt_dropout": dropout.model_dump(mode="json")}
    return {"objective": [term.model_dump(mode="json") for term in recipe.distill.objective], **ema, **policy, **read}


def _add_texts(graph: _Builder) -> tuple[str, ...]:
    """Add the stage in which the teacher writes what students learn from, if there is to be one; return its name."""
    recipe = graph.recipe
    if not recipe.writes or recipe.distill.text.use == "gold":
        return ()
    how = {"text": recipe.distill.text.model_dump(mode="json"), "precision": recipe.teacher.precision}
    settings = {**how, "seed": recipe.seed, **_numerics(recipe)}
    graph.add("write", "Let the teacher write texts to learn from", settings, "data", "teacher")
    return ("write",)


def _untaught(recipe: Recipe, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return where the control of a model that writes finds texts besides the data: nowhere, if it has gold ones."""
    return () if {"train", "validation"} <= set(recipe.data.gold) else texts


def _add_assistants(graph: _Builder, train: Mapping[str, Any], texts: tuple[str, ...]) -> list[str]:
    """Add who stands between teacher and student, each learning from the one before; return their stages' names."""
    recipe, names, heard = graph.recipe, list[str](), list[str]()
    for place, settings in enumerate(recipe.assistants, start=1):
        name, born_again = numbered("assistant", place), place - len(recipe.assistant)
        own = {"model": model_key(settings, graph.base), "train": train, "seed": recipe.seed, **_numerics(recipe)}
        title = f"Distill the student's generation {born_again}" if born_again > 0 else f"Distill assistant {place}"
        teacher = ("teacher",) if settings.from_teacher or recipe.writes else ()
        parents = ("data", *texts, "record", *teacher, *heard)
        graph.add(name, title, {**own, **_writing(recipe), **_teaching(recipe)}, *parents)
        answers = {"precision": recipe.teacher.precision, "codec": list(recipe.codec), **_numerics(recipe)}
        graph.add(f"record_{name}", "Record its answers", answers, "data", *texts, name)
        names, heard = [*names, name], [f"record_{name}"]
    return names


def _numerics(recipe: Recipe) -> dict[str, Any]:
    """Return what the numbers of training and answering depend on besides the settings."""
    facts = machine()
    own = {"torch": facts["torch"], "transformers": facts["transformers"], "processor": facts["processor"]}
    return own | accelerator(recipe.device)


def _writing(recipe: Recipe) -> dict[str, Any]:
    """Return what a model that writes is made with besides its weights: its prompt."""
    if not recipe.writes:
        return {}
    return {"prompt": {"teacher": prompt_asked(recipe), "max_new_tokens": recipe.prompt.max_new_tokens}}


def _add_teacher(graph: _Builder) -> tuple[str, ...]:
    recipe, base = graph.recipe, graph.base
    weights = model_key(recipe.teacher, base)
    if recipe.served:  # nothing to fetch and nothing to train
        return ("prompt",) if recipe.finds_prompt and _add_prompt(graph, "data") else ()
    if not recipe.prompted:
        train = recipe.teacher.train
        parents = ["data"]
        if recipe.writes:
            graph.add("weights", "Fetch the teacher's weights", {"weights": weights})
            parents.append("weights")
            if recipe.finds_prompt:
                _add_prompt(graph, *parents)
                parents.append("prompt")
        settings = {} if train is None else train.model_dump(mode="json", exclude={"checkpoint_seconds"})
        names = [numbered("teacher", place) for place in range(1, recipe.teacher.members + 1)]
        for place, name in enumerate(names, start=1):
            title = "Train the teacher" if len(names) == 1 else f"Train teacher {place} of {len(names)}"
            made = {"model": weights, "train": settings, "seed": recipe.seed, **_writing(recipe), **_numerics(recipe)}
            graph.add(name, title, made, *parents)
        return tuple(names)
    graph.add("weights", "Fetch the teacher's weights", {"weights": weights})
    _add_prompt(graph, "data", "weights")
    return ("weights", "prompt")


def _add_prompt(graph: _Builder, *parents: str) -> bool:
    """Add the stage that finds the teacher's prompt."""
    recipe = graph.recipe
    settings = {"prompt": prompt_read(recipe), "seed": recipe.seed, "precision": recipe.teacher.precision}
    if recipe.writes:
        settings["writes"] = [recipe.prompt.max_new_tokens, recipe.teacher.max_length]
    if recipe.prompt.writer is not None:
        settings["writer"] = recipe.prompt.writer.model_dump(mode="json")
    settings |= {**endpoint_key(recipe), **_numerics(recipe)}
    graph.add("prompt", "Find the teacher's prompt", settings, *parents)
    return True
