"""Check a recipe beyond its form, and plan it: stages, memory, minutes, bytes, calls; loads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attar import catalog
from attar.errors import AttarError, Mistake, RecipeError
from attar.pipeline.check_chain import chain_mistakes, models_of
from attar.pipeline.check_compression import compression_mistakes
from attar.pipeline.check_objectives import distill_mistakes
from attar.pipeline.forecast import Forecast
from attar.pipeline.graph import build
from attar.pipeline.nearer import friendly_mistakes
from attar.pipeline.prompt_keys import prompt_mistakes
from attar.pipeline.recipe import PromptsSettings, Recipe
from attar.pipeline.texts import text_mistakes
from attar.prompts.bank import word_variants
from attar.settings import cache_folder
from attar.sources import data as sources
from attar.sources import reference, weights, zoo
from attar.store.artifacts import Store
from attar.students.folder import kind_of
from attar.students.settings import ModelSettings

LANGUAGE = re.compile("CausalLM|LMHead|ConditionalGeneration")  # in the names of architectures that write text


@dataclass(frozen=True)
class PlannedStage:
    """Say what one stage will cost.

    Args:
        name: the stage.
        title: for people.
        key: content key of its result.
        stored: its result is in the store already.
        seconds: predicted; None where it cannot be told before the weights are here.
        parents: names of the stages before it.
    """

    name: str
    title: str
    key: str
    stored: bool
    seconds: float | None
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Say what a run will do.

    Args:
        name: the recipe's name.
        stages: in order.
        teacher_calls: examples the teacher will be asked, at most.
        seconds: predicted for all stages that are not stored; None if unknown.
        ram_bytes: predicted peak memory; None if unknown.
        download_bytes: of sources that are not here; None if unknown.
        disk_bytes: predicted growth of the store; None if unknown.
        notes: what the predictions rest on.
    """

    name: str
    stages: tuple[PlannedStage, ...]
    teacher_calls: int | None
    seconds: float | None
    ram_bytes: int | None
    download_bytes: int | None
    disk_bytes: int | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


def check(recipe: Recipe, base: Path) -> Plan:
    """Report every mistake that can be found without loading weights, and plan the run.

    Raises:
        RecipeError: with all mistakes found.
    """
    mistakes = list(_mistakes(recipe, base))
    if mistakes:
        raise RecipeError(recipe.name, mistakes)
    return _plan(recipe, base)


def _mistakes(recipe: Recipe, base: Path) -> Iterator[Mistake]:
    yield from _data_mistakes(recipe, base)
    for where, settings in models_of(recipe):
        yield from _model_mistakes(recipe, where, settings, base)
    yield from _teacher_mistakes(recipe)
    yield from prompt_mistakes(recipe)
    yield from distill_mistakes(recipe)
    yield from chain_mistakes(recipe)
    yield from text_mistakes(recipe)
    yield from compression_mistakes(recipe, base)
    yield from _student_prompt_mistakes(recipe)
    yield from friendly_mistakes(recipe)


def _student_prompt_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Check the student's prompt: who reads none has none to race."""
    mine, reads = recipe.prompt.student, recipe.student.answers_by == "label_words"
    if reads and recipe.task != "text-classification":
        yield Mistake("student.answers_by", f"label_words is for text-classification, and the task is {recipe.task}.")
    dropout = recipe.distill.prompt_dropout is not None
    if dropout and not (recipe.finds_prompt and (reads or recipe.writes) and recipe.distill.on_policy is None):
        yield Mistake(
            "distill.prompt_dropout",
            "needs a teacher whose prompt is looked for, and a student that reads one (student.answers_by: "
            "label_words, or text-generation), without on_policy.",
        )
    if not mine.race:
        return
    if recipe.task != "text-classification" or recipe.distill.on_policy is not None:
        yield Mistake("prompt.student.race", f"is for text-classification with a recorded teacher, not {recipe.task}.")
    elif not reads and set(mine.race) != {"soft"}:
        yield Mistake(
            "prompt.student.race",
            f"must be [soft] for a student with a head, got {list(mine.race)}: it reads no prompt in words. Set "
            "student.answers_by: label_words.",
        )


def _data_mistakes(recipe: Recipe, base: Path) -> Iterator[Mistake]:
    try:
        yield from (Mistake("data", message) for message in sources.quick_check(recipe.data, base))
    except AttarError as error:
        yield Mistake("data", str(error))
    kind = catalog.entry("task", recipe.task).input_kind
    if kind == "text" and recipe.data.text is None:
        yield Mistake("data.text", f"is required for {recipe.task}: the column that holds the text.")
    if recipe.writes and recipe.data.target is None:
        yield Mistake("data.target", "is required for text-generation: the column that holds the text to write.")
    if not recipe.writes and recipe.data.target is not None:
        yield Mistake("data.target", f"is a key of text-generation; {recipe.task} has labels. Use data.label.")
    if kind == "image" and recipe.data.text is not None:
        yield Mistake("data.text", "is a key of text tasks, and this task classifies images. Use data.image.")
    if "test" not in recipe.data.gold:
        yield Mistake("data.gold", "must hold 'test': quality is measured on gold labels.")


def _model_mistakes(recipe: Recipe, where: str, settings: ModelSettings, base: Path) -> Iterator[Mistake]:
    text = recipe.task != "image-classification"
    if settings.from_teacher:
        yield from _from_teacher_mistakes(recipe, where)
        return
    if settings.model is None and settings.build is None:
        yield from _endpoint_mistakes(recipe)
        return
    if settings.build is not None:
        if text:
            yield Mistake(f"{where}.build", "makes networks for images; a text task needs `model`.")
        return
    if kind_of(settings) in ("timm", "torchvision") and text:
        yield Mistake(f"{where}.model", f"must be a text model for {recipe.task}, got {settings.model!r}.")
        return
    try:
        ref = reference.parse(str(settings.model), base)
        yield from (Mistake(f"{where}.model", message) for message in reference.check(ref, settings.sha256))
        if ref.kind in ("timm", "torchvision"):
            zoo.check_name(ref.kind, ref.name)
        if ref.kind == "sklearn":
            yield Mistake(f"{where}.model", "must be a model; sklearn: gives data.")
        found = reference.local(ref, settings.sha256, cache_folder())
        if found is not None and ref.kind != "hf":  # a hub's folder may be here in part
            yield from _folder_mistakes(recipe, where, settings, found)
    except AttarError as error:
        yield Mistake(f"{where}.model", str(error))


def _from_teacher_mistakes(recipe: Recipe, where: str) -> Iterator[Mistake]:
    if where == "teacher":
        yield Mistake("teacher.model", "must name weights; `teacher` is for a student that starts there.")
    elif recipe.served:
        yield Mistake(f"{where}.model", "cannot start from a teacher behind a server: its weights are not here.")
    elif recipe.prompted and recipe.student.answers_by != "label_words":
        yield Mistake(
            f"{where}.model",
            "cannot start from a teacher that labels by a prompt: the student is a classifier with a head. Set "
            "student.answers_by: label_words.",
        )


def _endpoint_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.task != "text-classification":
        yield Mistake("teacher.endpoint", f"labels texts, and the task is {recipe.task}. Use text-classification.")
    if recipe.teacher.endpoint is not None and recipe.teacher.endpoint.mode != "labels":
        yield Mistake("teacher.endpoint.mode", "must be labels: a classifier learns from label probabilities.")
    if recipe.teacher.train is not None:
        yield Mistake("teacher.train", "is for weights that are here; a model behind a server cannot be trained.")
    if recipe.data.labels is None:
        yield Mistake("data.labels", "is required with teacher.endpoint: the prompt names the labels.")


def _folder_mistakes(recipe: Recipe, where: str, settings: ModelSettings, found: Path) -> Iterator[Mistake]:
    """Look into weights that are here already; only their headers are read."""
    weights.check_weights(found)
    if recipe.task != "image-classification":
        weights.check_tokenizer(found)
    config = weights.model_config(found)
    yield from _shape_mistakes(where, settings, config)
    kinds = config.get("architectures") or ()
    if recipe.writes and kinds and not any(LANGUAGE.search(str(kind)) for kind in kinds):
        yield Mistake(
            f"{where}.model",
            f"must be a causal language model for {recipe.task}, and {found} holds {', '.join(map(str, kinds))}.",
        )
    elif where == "teacher" and recipe.prompted and kinds and not any(LANGUAGE.search(str(kind)) for kind in kinds):
        yield Mistake(
            "teacher.model",
            f"must be a causal language model to answer a prompt, and {found} holds {', '.join(map(str, kinds))}. "
            "Choose another, or add teacher.train to train it on gold labels first.",
        )


def _shape_mistakes(where: str, settings: ModelSettings, config: Mapping[str, Any]) -> Iterator[Mistake]:
    available = config.get("num_hidden_layers", config.get("n_layers"))
    if settings.layers is None or not isinstance(available, int):
        return
    most = max(settings.layers) + 1 if isinstance(settings.layers, tuple) else settings.layer_count or 0
    shown = list(settings.layers) if isinstance(settings.layers, tuple) else settings.layer_count
    if most > available:
        yield Mistake(
            f"{where}.layers",
            f"must be within the model's {available} layers (0 to {available - 1}), got {shown}.",
        )


def _teacher_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.teacher.train is not None and "train" not in recipe.data.gold:
        yield Mistake(
            "teacher.train", "needs gold labels: data.gold must hold 'train', or leave the teacher untrained."
        )
    if recipe.teacher.train is None and recipe.teacher.build is not None:
        yield Mistake("teacher.train", "is required with `build`: a network from nothing knows nothing.")
    if not recipe.prompted and not recipe.served:
        if recipe.prompt != PromptsSettings() and not recipe.writes:  # a run's own recipe.yaml spells the default out
            yield Mistake("prompt", "is for a teacher that is a language model; this one is a trained classifier.")
        if recipe.teacher.train is None and recipe.teacher.build is None and recipe.task == "image-classification":
            yield Mistake("teacher.train", "is required: the model's own classes are not the data's labels.")
        return
    names = [str(name) for name in recipe.data.labels or ()]
    if not names:
        return
    try:
        word_variants(recipe.prompt.teacher, names)
    except AttarError as error:
        yield Mistake("prompt.teacher.words", str(error))


def _plan(recipe: Recipe, base: Path) -> Plan:
    store = Store(cache_folder())
    stages = build(recipe, base)
    guess = Forecast(recipe, base)
    planned = [
        PlannedStage(name, stage.title, stage.key, store.has(name, stage.key), guess.seconds(name), stage.parents)
        for name, stage in stages.items()
    ]
    todo = [stage for stage in planned if not stage.stored]
    known = [stage.seconds for stage in todo if stage.seconds is not None]
    calls = guess.calls() if any(stage.name in ("record", "prompt") for stage in todo) else 0
    seconds = round(sum(known), 1) if len(known) == len(todo) else None
    notes = guess.notes() + (guess.price() if calls else ())
    return Plan(recipe.name, tuple(planned), calls, seconds, guess.ram(), guess.download(), guess.disk(), notes)
