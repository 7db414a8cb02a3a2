"""Do each stage of a recipe: read the parents' files, call the stage, leave the result's files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.examples import DataSet, Examples
from attar.core.nouns import Teacher
from attar.optional import lazy
from attar.pipeline.quality import measure_all
from attar.pipeline.recipe import Recipe
from attar.seeds import derive
from attar.sources import data as sources
from attar.sources import weights as weight_files
from attar.stages import assets, tune
from attar.stages.compress import compress as compress_model
from attar.stages.device import choose_device, choose_precision, precision_name, threads
from attar.stages.distill import Origin, train_model
from attar.stages.export import export as export_bundle
from attar.stages.loop import Lesson
from attar.stages.record import Known
from attar.stages.record import record as record_teacher
from attar.store.artifacts import Artifact
from attar.store.files import remove, write_json
from attar.students import folder as students
from attar.teachers.recorded import RecordedTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Desk:
    """Hold what a stage works with.

    Args:
        recipe: the recipe.
        base: the folder its paths are relative to.
        cache: attar's cache.
        key: content key of the stage's result.
        inputs: name of a parent stage -> its artifact.
        work: folder that survives a kill.
        content: folder for the result's files.
    """

    recipe: Recipe
    base: Path
    cache: Path
    key: str
    inputs: Mapping[str, Artifact]
    work: Path
    content: Path

    def data(self) -> DataSet:
        """Return the data set of the run."""
        return sources.load(self.inputs["data"].folder)

    def recorded(self) -> RecordedTeacher:
        """Return the recorded teacher."""
        return RecordedTeacher(self.inputs["record"].folder / "answers", self.inputs["record"].key)


def data(desk: Desk) -> dict[str, Any]:
    """Read, clean and split the data."""
    found = sources.read(desk.recipe.data, desk.base, desk.cache, desk.recipe.seed)
    remove(desk.content)
    desk.content.mkdir(parents=True)
    sources.save(found, desk.content)
    counts = {name: len(found.split(name)) for name in ("train", "validation", "test")}
    return {"labels": list(found.labels), "counts": counts, "facts": dict(found.facts)}


def weights(desk: Desk) -> dict[str, Any]:
    """Fetch the weights of a language model as a plain folder (a GGUF file is unpacked once)."""
    found = assets.fetch_weights(desk.recipe.teacher, desk.base, desk.cache)
    if found is None:
        raise ValueError("a prompted teacher has weights")
    remove(desk.content)
    if found.suffix == ".gguf":
        weight_files.as_folder(found, desk.content)
    else:
        shutil.copytree(found, desk.content)
    return {"stored_bytes": found.stat().st_size if found.is_file() else None}


def teacher(desk: Desk) -> dict[str, Any]:
    """Train the teacher on gold labels, or take it as it comes."""
    recipe, found = desk.recipe, desk.data()
    origin = _origin(desk, recipe.teacher, found)
    if recipe.teacher.train is None:
        remove(desk.content)
        students.save(students.make(origin.settings, origin.weights, origin.labels, origin.shape), desk.content)
        return {"history": []}
    objective = assets.objective_of([(1.0, "cross_entropy", {})])
    lesson = Lesson(assets.task(recipe.task), found.split("train"), found.split("validation"), objective)
    seed = derive(recipe.seed, "teacher")
    return train_model(
        origin, lesson, recipe.teacher.train, seed, (desk.work, desk.content), "training the teacher", recipe.device
    )


def _origin(desk: Desk, settings: Any, found: DataSet) -> Origin:
    shape: Sequence[int] = found.train.inputs.shape[1:] if isinstance(found.train.inputs, np.ndarray) else ()
    return Origin(
        settings, assets.fetch_weights(settings, desk.base, desk.cache), found.labels, tuple(int(n) for n in shape)
    )


def prompt(desk: Desk) -> dict[str, Any]:
    """Race the bank of prompts."""
    recipe, found = desk.recipe, desk.data()
    scorer = _scorer(desk)
    splits = {name: found.split(name) for name in ("train", "validation")}
    seed = derive(recipe.seed, "prompt")
    tuned = tune.tune_prompt(scorer, recipe.prompt.teacher, found.labels, splits, desk.work, seed)
    remove(desk.content)
    desk.content.mkdir(parents=True)
    tune.save(tuned, desk.content)
    return {"facts": tuned.facts, "prompt": tuned.prompt.to_json(), "own": tuned.own.to_json()}


def _scorer(desk: Desk) -> Any:
    from attar.prompts.scoring import LabelWordScorer

    device = choose_device(desk.recipe.device)
    dtype = choose_precision(desk.recipe.teacher.precision, device)
    torch.set_num_threads(threads())
    model, tokenizer = assets.language_model(
        desk.inputs["weights"].folder, dtype, device, desk.recipe.teacher.trust_remote_code
    )
    return LabelWordScorer(model, tokenizer, desk.recipe.prompt.teacher.max_tokens)


def record(desk: Desk) -> dict[str, Any]:
    """Ask the teacher once for every example of every split."""
    found = desk.data()
    splits = {name: found.split(name) for name in ("train", "validation", "test")}
    remove(desk.content)
    desk.content.mkdir(parents=True)
    speaker, known, precision = _speaker(desk)
    facts = record_teacher(speaker, splits, desk.work, desk.content / "answers", known)
    if desk.recipe.prompted:
        facts["own_prompt"] = _own_prompt(desk, speaker, found)
    return {**facts, "precision": precision}


def _speaker(desk: Desk) -> tuple[Teacher, Known | None, str]:
    from attar.teachers.classifier import ClassifierTeacher
    from attar.teachers.label_words import LabelWordTeacher

    dtype = choose_precision(desk.recipe.teacher.precision, choose_device(desk.recipe.device))
    if desk.recipe.prompted:
        tuned = tune.load(desk.inputs["prompt"].folder)
        known = Known(tuned.keys, tuned.scores)
        return LabelWordTeacher(_scorer(desk), tuned.prompt, desk.key), known, precision_name(dtype)
    model = students.load(desk.inputs["teacher"].folder)
    model.module.to(choose_device(desk.recipe.device))
    return ClassifierTeacher(model, assets.task(desk.recipe.task), desk.key, dtype), None, precision_name(dtype)


def _own_prompt(desk: Desk, speaker: Any, found: DataSet) -> dict[str, Any] | None:
    """Score the recipe's own prompt, as it stands, on a part of the test split, for the report's before and after."""
    tuned = tune.load(desk.inputs["prompt"].folder)
    if tuned.prompt == tuned.own:
        return None
    part = _part(found.test, desk.recipe.measure.own_prompt_examples, desk.recipe.seed)
    scores = speaker.scorer.answer(tuned.own, [str(text) for text in part.inputs])
    write_json(
        desk.content / "own_prompt.json", {"keys": [int(k) for k in part.keys], "scores": np.round(scores, 5).tolist()}
    )
    return {"n": len(part)}


def _part(examples: Examples, count: int, seed: int) -> Examples:
    random = np.random.Generator(np.random.PCG64(derive(seed, "own prompt")))
    return examples.take(np.sort(random.permutation(len(examples))[: min(count, len(examples))]))


def control(desk: Desk) -> dict[str, Any]:
    """Train the student's twin on hard targets: gold labels if the recipe has them, else the teacher's choices."""
    return _learn(desk, [(1.0, "cross_entropy", {})], "training the control")


def student(desk: Desk) -> dict[str, Any]:
    """Distill the student."""
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]
    return _learn(desk, terms, "distilling the student")


def _learn(desk: Desk, terms: Sequence[tuple[float, str, Mapping[str, Any]]], title: str) -> dict[str, Any]:
    recipe, found, speaker = desk.recipe, desk.data(), desk.recorded()
    train = assets.with_targets(found.split("train"), speaker)
    validation = assets.with_targets(found.split("validation"), speaker)
    lesson = Lesson(assets.task(recipe.task), train, validation, assets.objective_of(terms), speaker)
    places = (desk.work, desk.content)
    return train_model(
        _origin(desk, recipe.student, found),
        lesson,
        recipe.distill,
        derive(recipe.seed, "student"),
        places,
        title,
        recipe.device,
    )


def compress(desk: Desk) -> dict[str, Any]:
    """Apply the compression steps that work on the model."""
    steps = [(step.use, step.settings) for step in desk.recipe.compress]
    return compress_model(desk.inputs["student"].folder, steps, desk.data(), desk.content)


def export(desk: Desk) -> dict[str, Any]:
    """Export the bundle, with the compression steps that work on the graph."""
    steps = [(step.use, step.settings) for step in desk.recipe.compress]
    return export_bundle(
        desk.inputs["compress"].folder, desk.recipe.task, steps, desk.data(), (desk.work, desk.content)
    )


def measure(desk: Desk) -> dict[str, Any]:
    """Measure every model of the run."""
    measured = measure_all(desk.recipe, desk.data(), desk.inputs)
    remove(desk.content)
    write_json(desk.content / "measured.json", measured)
    return {}
