"""Apply one compression step to a trained model, and say what it cost and what recovery gave back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.compressing import Calibration
from attar.core.examples import DataSet
from attar.core.nouns import Model
from attar.meters.flops import count_parameters
from attar.stages import assets
from attar.stages.distill import train_model
from attar.stages.lesson import Lesson, loss_of
from attar.stages.recover import Restart
from attar.stages.schedule import TrainSettings
from attar.stages.score import score
from attar.store.files import read_json, remove, write_json
from attar.students import folder as students

Steps = Sequence[tuple[str, Mapping[str, Any]]]
"""``(name, settings)`` of steps, in order."""


def steps_at(place: str, steps: Steps) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the steps that work at ``"model"`` or ``"export"``, in their order."""
    return [(name, settings) for name, settings in steps if catalog.entry("compressor", name).at == place]


def inputs_of(data: DataSet) -> list[Any]:
    """Return all inputs that steps may look at: none of the test split."""
    parts = [data.train, data.validation, *([] if data.spare is None else [data.spare])]
    return [one for part in parts for one in part.inputs]


@dataclass(frozen=True)
class Bench:
    """Hold what a step works with.

    Args:
        source: folder of the model before the step.
        lesson: what the model is trained by, and judged on: its validation examples.
        inputs: every input outside the test split.
        seed: of every draw.
        work: folder that survives a kill.
        content: folder of the result.
    """

    source: Path
    lesson: Lesson
    inputs: Sequence[Any]
    seed: int
    work: Path
    content: Path

    def calibration(self, model: Model) -> Calibration:
        """Return what a step may look at."""

        def loss(one: Model, examples: Any) -> Any:
            """Return the lesson's mean loss."""
            return loss_of(self.lesson, one, examples)[0].total

        return Calibration(self.lesson.task, self.lesson.train, self.inputs, self.seed, loss)

    def judged(self, model: Model) -> dict[str, float]:
        """Return a model's quality on the validation examples."""
        accuracy, loss = score(model, self.lesson.task, self.lesson.validation)
        return {"accuracy": accuracy, "loss": loss}


def apply_step(bench: Bench, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a step and leave the model in the work folder, once.

    Returns:
        The step's plan, parameters, and the quality before and after it.
    """
    note, applied = bench.work / "applied.json", bench.work / "applied"
    if not note.is_file():
        kind = catalog.entry("compressor", name)
        model = students.load(bench.source)
        before = bench.judged(model)
        model, plan = kind(kind.Settings(**settings)).apply(model, bench.calibration(model))
        facts = {"plan": asdict(plan), "parameters": count_parameters(model.module), "before": before}
        remove(applied)
        students.save(model, applied)
        write_json(note, {**facts, "after": bench.judged(students.load(applied))})
    return dict(read_json(note))


def compress(
    bench: Bench, step: tuple[str, Mapping[str, Any]], recovery: TrainSettings | None, title: str, device: str
) -> dict[str, Any]:
    """Apply a step, let the model recover, and write the better of what the step and the recovery left.

    Args:
        bench: what it works with.
        step: name and settings.
        recovery: how the model recovers; None if it does not.
        title: for the progress bar.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        Facts for the artifact's card: ``plans``, ``damage`` (one row: parameters, quality before, after and recovered,
        minutes), ``history`` (the curve of the recovery).
    """
    facts = apply_step(bench, *step)
    row = {"step": step[0], **{name: facts[name] for name in ("parameters", "before", "after")}}
    applied = bench.work / "applied"
    history: list[dict[str, Any]] = []
    if recovery is not None:
        trained = train_model(
            Restart(applied), bench.lesson, recovery, bench.seed, (bench.work / "recover", bench.content), title, device
        )
        history = [_timed(row, trained["clock"]) for row in trained["history"]]
        recovered = bench.judged(students.load(bench.content))
        by = bench.lesson.task.chooses_by
        better = recovered["loss"] <= facts["after"]["loss"] if by == "loss" else _at_least(recovered, facts["after"])
        row |= {"recovered": recovered if better else facts["after"], "steps": trained["steps"], "kept": better}
        if better:
            return {"plans": [facts["plan"]], "damage": [row], "history": history}
    remove(bench.content)
    students.save(students.load(applied), bench.content)
    return {"plans": [facts["plan"]], "damage": [row], "history": history}


def _timed(row: Mapping[str, Any], clock: Mapping[str, float]) -> dict[str, Any]:
    """Return a row of a curve with the seconds of training until then, where they were taken."""
    at = str(row["step"])
    return {**row, "seconds": clock[at]} if at in clock else dict(row)


def _at_least(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return (one["accuracy"], -one["loss"]) >= (other["accuracy"], -other["loss"])


def apply_all(model: Model, task: str, steps: Steps, data: DataSet, examples: int | None = None) -> Model:
    """Return a model after all steps that work on the model, without recovery.

    Args:
        model: is changed.
        task: the recipe's task.
        steps: in order; those on the graph are passed over.
        data: what steps calibrate on.
        examples: training examples they may look at; None for all.
    """
    train = data.train if examples is None else data.train.take(np.arange(min(examples, len(data.train))))
    for name, settings in steps_at("model", steps):
        kind = catalog.entry("compressor", name)
        calibration = Calibration(assets.task(task), train, inputs_of(data))
        model, _ = kind(kind.Settings(**settings)).apply(model, calibration)
    return model


def untouched(source: Path, content: Path) -> dict[str, Any]:
    """Write a model as it is, where no step works on it."""
    remove(content)
    students.save(students.load(source), content)
    return {"plans": [], "damage": [], "history": []}
