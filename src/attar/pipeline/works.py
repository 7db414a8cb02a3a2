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
from attar.errors import AttarError
from attar.objectives.learned import features_of
from attar.objectives.ramp import Ramp
from attar.optional import lazy
from attar.pipeline import compression, generation, nearer, student_prompts, target
from attar.pipeline import dense as dense_models
from attar.pipeline.crossing import across
from attar.pipeline.endpoints import ask_ahead, served_teacher
from attar.pipeline.members import combined
from attar.pipeline.names import compressed, numbered, of_kind
from attar.pipeline.prompting import find_prompt, prompted_model
from attar.pipeline.quality import Run, measure_all
from attar.pipeline.recipe import Recipe
from attar.pipeline.texts import equal_steps, splits, write_texts
from attar.prompts.bank import own_prompt
from attar.seeds import derive
from attar.sources import data as sources
from attar.sources import weights as weight_files
from attar.stages import assets, tune
from attar.stages.device import choose_device, choose_precision, precision_name
from attar.stages.distill import Origin, train_model
from attar.stages.export import export as export_bundle
from attar.stages.export import export_folder
from attar.stages.export_writer import export_writer
from attar.stages.lesson import Lesson
from attar.stages.moving import SelfTeaching
from attar.stages.on_policy import OnPolicy
from attar.stages.prior import correct_prior, rare, unlabelled
from attar.stages.record import Known, RecordSettings
from attar.stages.record import record as record_teacher
from attar.store.artifacts import Artifact
from attar.store.files import remove, write_json
from attar.students import folder as students
from attar.students.prior import target_prior
from attar.students.settings import ModelSettings
from attar.teachers.endpoint import EndpointTeacher
from attar.teachers.recorded import RecordedTeacher
from attar.teachers.recorded_features import RecordedFeatures

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


CONTROL = "training the control"
"""Title of the stage that no teacher takes part in, not even the student's own moving average."""
BRIEF = "distilling a first student"
"""Title of the stage whose model the teacher sees before it speaks to the student."""
STUDENT = "distilling the student"
"""Title of the stage that a teacher takes part in."""


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

    def taught(self) -> DataSet:
        """Return the data set with the targets that students learn from: the teacher's texts, where it wrote some."""
        return sources.load(self.inputs["write" if "write" in self.inputs else "data"].folder)

    def recorded(self, name: str = "record") -> RecordedTeacher:
        """Return the recorded teacher, or what another stage recorded."""
        return RecordedTeacher(self.inputs[name].folder / "answers", self.inputs[name].key)

    def heard(self) -> RecordedTeacher:
        """Return who a student listens to: the assistant before it, or the teacher, perhaps brought nearer to it."""
        teacher = "friendly" if "friendly" in self.inputs else "record"
        return self.recorded(next(iter(of_kind("record_assistant", self.inputs)), teacher))


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
        raise ValueError("a language model has weights")
    remove(desk.content)
    if found.suffix == ".gguf":
        weight_files.as_folder(found, desk.content)
    else:
        shutil.copytree(found, desk.content)
    return {"stored_bytes": found.stat().st_size if found.is_file() else None}


def plan(desk: Desk) -> dict[str, Any]:
    """Find the compression steps that meet the recipe's target."""
    own = desk.recipe.student
    if own.from_teacher:  # its shapes are those of the teacher's weights, trained or not
        whole = desk.recipe.teacher
        layers = whole.layers if own.layers is None else own.layers
        same = {"layers": layers, "answers_by": own.answers_by, "max_length": own.max_length}
        own = whole.model_copy(update=same)
    return target.plan_steps(desk, _origin(desk, own, desk.data()))


def teacher(desk: Desk, place: int = 1) -> dict[str, Any]:
    """Train the teacher (or the member at a place, from 1) on gold labels, or take it as it comes."""
    recipe, found = desk.recipe, desk.data()
    origin = _origin(desk, recipe.teacher, found)
    if recipe.teacher.train is None:
        remove(desk.content)
        students.save(origin.make(), desk.content)
        return {"history": []}
    objective = assets.objective_of([(1.0, "cross_entropy", {})])
    lesson = Lesson(assets.task(recipe.task), found.split("train"), found.split("validation"), objective)
    seed = derive(recipe.seed, numbered("teacher", place))
    return train_model(
        origin, lesson, recipe.teacher.train, seed, (desk.work, desk.content), "training the teacher", recipe.device
    )


def _origin(desk: Desk, settings: Any, found: DataSet) -> Origin:
    weights: Path | None
    shape: Sequence[int] = found.train.inputs.shape[1:] if isinstance(found.train.inputs, np.ndarray) else ()
    if settings.from_teacher:  # one that labels by a prompt is what its weights are
        weights = desk.inputs["teacher" if "teacher" in desk.inputs else "weights"].folder
    elif "weights" in desk.inputs and settings is desk.recipe.teacher:
        weights = desk.inputs["weights"].folder
    else:
        weights = assets.fetch_weights(settings, desk.base, desk.cache)
        if weights is not None:
            weights = assets.unpacked(weights, desk.work / "weights")
    names, task = (found.labels, tuple(int(n) for n in shape)), assets.task(desk.recipe.task)
    facts = _writing_facts(desk.recipe) | student_prompts.student_facts(desk.recipe, settings, found.labels)
    if "prompt" in desk.inputs and settings is desk.recipe.teacher:
        facts |= {"prompt": tune.load(desk.inputs["prompt"].folder).prompt.to_json()}
    return Origin(settings, weights, *names, facts, task, found.split("train"))


def _writing_facts(recipe: Recipe) -> dict[str, Any]:
    """Return what a model that writes is to know: its prompt, and how much it may write."""
    if not recipe.writes:
        return {}
    asked = own_prompt(recipe.prompt.teacher, ())
    return {"prompt": asked.to_json(), "max_new_tokens": recipe.prompt.max_new_tokens}


def prompt(desk: Desk) -> dict[str, Any]:
    """Find the teacher's prompt."""
    weights = desk.inputs["weights"].folder if "weights" in desk.inputs else None
    tuned = find_prompt(desk.recipe, desk.data(), weights, desk.work, desk.cache, desk.base)
    remove(desk.content)
    desk.content.mkdir(parents=True)
    tune.save(tuned, desk.content)
    return {"facts": tuned.facts, "prompt": tuned.prompt.to_json(), "own": tuned.own.to_json()}


def _scorer(desk: Desk) -> Any:
    from attar.prompts.scoring.label_words import LabelWordScorer

    model, tokenizer = prompted_model(desk.recipe, desk.inputs["weights"].folder)
    return LabelWordScorer(model, tokenizer, desk.recipe.prompt.teacher.max_tokens)


def write(desk: Desk) -> dict[str, Any]:
    """Let the teacher write the texts that students learn from."""
    return write_texts(desk)


def record(desk: Desk) -> dict[str, Any]:
    """Ask the teacher once for every example of every split."""
    speaker, known, precision = _speaker(desk)
    facts = _record(desk, speaker, known)
    if desk.recipe.prompted:
        facts["own_prompt"] = _own_prompt(desk, speaker, desk.data())
    if isinstance(speaker, EndpointTeacher):
        facts["spent"] = speaker.facts()
    return {**facts, "precision": precision}


def _record(desk: Desk, speaker: Teacher, known: Known | None) -> dict[str, Any]:
    found = desk.taught()
    # what is said of a test text's tokens is measured with all other models, from files
    names = ("train", "validation") if desk.recipe.writes else ("train", "validation", "test")
    splits = {name: found.split(name) for name in names}
    remove(desk.content)
    desk.content.mkdir(parents=True)
    if isinstance(speaker, EndpointTeacher):
        ask_ahead(speaker, list(splits.values()))
    settings = RecordSettings(
        assets.codec_of(*desk.recipe.codec),
        derive(desk.recipe.seed, "record"),
        features=bool(desk.recipe.recorded_features),
    )
    return record_teacher(speaker, splits, desk.work, desk.content / "answers", known, settings)


def _speaker(desk: Desk) -> tuple[Teacher, Known | None, str]:
    from attar.teachers.label_words import LabelWordTeacher

    if desk.recipe.served:
        asked = tune.load(desk.inputs["prompt"].folder).prompt if "prompt" in desk.inputs else None
        return served_teacher(desk.recipe, desk.data().labels, desk.cache, asked), None, "unknown"
    dtype = choose_precision(desk.recipe.teacher.precision, choose_device(desk.recipe.device))
    if desk.recipe.prompted:
        tuned = tune.load(desk.inputs["prompt"].folder)
        known = Known(tuned.keys, tuned.scores)
        return LabelWordTeacher(_scorer(desk), tuned.prompt, desk.key), known, precision_name(dtype)
    names = of_kind("teacher", desk.inputs)
    return combined(desk.recipe, [desk.inputs[name] for name in names], dtype), None, precision_name(dtype)


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
    return _learn(desk, [(1.0, "cross_entropy", {})], CONTROL)


def student(desk: Desk) -> dict[str, Any]:
    """Distill the student."""
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]
    return _learn(desk, terms, STUDENT)


def brief(desk: Desk) -> dict[str, Any]:
    """Distill a first student for a short while, for the teacher to see."""
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]
    return _learn(desk, terms, BRIEF)


def friendly(desk: Desk) -> dict[str, Any]:
    """Bring the teacher nearer to its student, and record it anew."""
    return nearer.play(desk)


def assistant(desk: Desk, place: int = 1) -> dict[str, Any]:
    """Distill who stands at a place between teacher and student, from 1."""
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]
    return _learn(desk, terms, "distilling the assistant", place)


def record_assistant(desk: Desk, place: int = 1) -> dict[str, Any]:
    """Record an assistant as the teacher is recorded."""
    made = desk.inputs[numbered("assistant", place)]
    dtype = choose_precision(desk.recipe.teacher.precision, choose_device(desk.recipe.device))
    facts = _record(desk, combined(desk.recipe, [made], dtype), None)
    return {**facts, "precision": precision_name(dtype)}


def student_prompt(desk: Desk) -> dict[str, Any]:
    """Make the prompts that the compressed student is raced with."""
    speaker = desk.recorded()
    train, validation = (assets.with_targets(part, speaker) for part in splits(desk, False))
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]
    lesson = Lesson(assets.task(desk.recipe.task), train, validation, assets.objective_of(terms), speaker)
    return student_prompts.make_candidates(desk, lesson)


def dense(desk: Desk) -> dict[str, Any]:
    """Train the smaller dense models that the compressed student stands beside."""
    terms = [(term.weight, term.use, term.settings) for term in desk.recipe.distill.objective]

    def origin(settings: ModelSettings) -> Origin:
        """Return what a model of these settings starts from."""
        return _origin(desk, settings, desk.data())

    def learn(own: Desk, settings: ModelSettings, more: int) -> dict[str, Any]:
        """Train it."""
        return _learn(own, terms, "distilling a dense model", settings=settings, more=more)

    return dense_models.train_dense(desk, origin, learn)


def _learn(
    desk: Desk,
    terms: Sequence[tuple[float | Ramp, str, Mapping[str, Any]]],
    title: str,
    assistant: int = 0,
    settings: ModelSettings | None = None,
    more: int = 0,
) -> dict[str, Any]:
    """Train a model at a desk: the student, or who else is given.

    Args:
        desk: of the stage.
        terms: weight, name and settings of the objectives.
        title: for the progress bar.
        assistant: place of the assistant that is trained, from 1.
        settings: of another model than the student.
        more: steps beyond the student's own.
    """
    recipe, found = desk.recipe, desk.data()
    speaker = desk.recorded() if "record" in desk.inputs else None
    name = numbered("assistant", assistant) if assistant else "student"
    settings = settings or (recipe.assistants[assistant - 1] if assistant else recipe.student)
    train, validation = (assets.with_targets(part, speaker) for part in splits(desk, title == CONTROL))
    objective = assets.objective_of(terms)
    policy = None if recipe.distill.on_policy is None or title == CONTROL else OnPolicy(recipe.distill.on_policy)
    teacher: Teacher | None = None if speaker is None else desk.heard()
    if policy is not None:
        teacher = _speaker(desk)[0]
    elif features_of(objective)[1]:
        teacher = _shown(desk, features_of(objective)[1])
    task, ema = assets.task(recipe.task), recipe.distill.ema
    moving = None if ema is None or title == CONTROL else SelfTeaching(ema, task)
    origin = _origin(desk, settings, found)
    matched: Mapping[str, float] = {}
    apart = recipe.writes and not settings.from_teacher and "teacher" in desk.inputs
    if apart and teacher is not None and origin.weights is not None and title != CONTROL:
        teacher, matched = across(teacher, (desk.inputs["teacher"].folder, origin.weights), recipe)
        if matched and assistant:  # the next in the chain would take the assistant's tokens for the teacher's
            raise AttarError(
                f"{settings.model} has another tokenizer than the teacher; whoever teaches a student in its turn must "
                "have the teacher's. Choose an assistant of the teacher's family, or set distill.generations to 1."
            )
    if isinstance(recipe.distill.prior, tuple):  # a wrong one shows now, not after the training
        target_prior(recipe.distill.prior, len(found.labels))
    draw = policy or (student_prompts.dropout(desk) if title != CONTROL else None)
    lesson = Lesson(task, train, validation, objective, teacher, draw, moving)
    places = (desk.work, desk.content)
    how = equal_steps(recipe.distill, len(found.train))
    how = how.model_copy(update={"steps": (how.steps or 1) + more})
    facts = train_model(
        origin,
        lesson,
        nearer.briefly(how, how.steps or 1) if title == BRIEF else how,
        derive(recipe.seed, name),
        places,
        title,
        recipe.device,
    )
    facts |= {"matched": matched} if matched else {}
    return (
        facts
        if assistant or speaker is None
        else facts | _corrected(desk, found, speaker, title not in (CONTROL, BRIEF))
    )


def _shown(desk: Desk, features: frozenset[str]) -> Teacher:
    """Return who shows what layers give: the record if it keeps features, else the classifier, for every batch anew."""
    if desk.recipe.distill.record_features:
        return RecordedFeatures(desk.recorded(), desk.inputs["record"].folder / "features")
    from attar.teachers.classifier import ClassifierTeacher

    model = students.load(desk.inputs["teacher"].folder)
    model.module.to(choose_device(desk.recipe.device))
    return ClassifierTeacher(model, assets.task(desk.recipe.task), desk.inputs["teacher"].key, features=features)


def _corrected(desk: Desk, found: DataSet, speaker: RecordedTeacher, taught: bool) -> dict[str, Any]:
    """Correct the class masses of a trained model where the recipe asks for it; those of a teacher, if it had one."""
    prior = desk.recipe.distill.prior
    if prior == "none" or (prior == "teacher" and not taught):
        return {}
    model, only = students.load(desk.content), None
    if prior != "teacher":  # a given prior bends right classes too, so only those seen too rarely are corrected
        said = torch.softmax(speaker.answer(found.split("train")).dense().double(), dim=-1).mean(dim=0).numpy()
        only = rare(said, target_prior(prior, len(found.labels)))
        if not only:
            return {"prior": {"wanted": prior if isinstance(prior, str) else "given", "only": [], "changed": 0.0}}
    examples = unlabelled(found, recorded=prior == "teacher")
    facts = correct_prior(model, assets.task(desk.recipe.task), examples, prior, speaker, only)
    students.save(model, desk.content)
    return {"prior": facts}


def compress(desk: Desk, place: int = 1) -> dict[str, Any]:
    """Apply the compression step at a place, from 1, of those that work on the model."""
    return compression.run_step(desk, place, target.steps_of(desk.recipe, desk.inputs, "model"))


def export(desk: Desk) -> dict[str, Any]:
    """Export the bundle, with the compression steps that work on the graph."""
    source = desk.inputs[compressed(desk.inputs)].folder
    if desk.recipe.export.to == "hf":
        return export_folder(source, desk.recipe.task, desk.content)
    steps = [(step.use, step.settings) for step in target.steps_of(desk.recipe, desk.inputs, "export")]
    if desk.recipe.prompt.student.race:
        return student_prompts.race(desk, steps)
    if desk.recipe.writes:
        return export_writer(source, desk.recipe.task, steps, desk.data(), (desk.work, desk.content))
    return export_bundle(source, desk.recipe.task, steps, desk.data(), (desk.work, desk.content))


def measure(desk: Desk) -> dict[str, Any]:
    """Measure every model of the run."""
    run = Run(desk.recipe, desk.data(), desk.inputs)
    measured = generation.measure_all(run) if desk.recipe.writes else measure_all(run)
    remove(desk.content)
    write_json(desk.content / "measured.json", measured)
    return {}
