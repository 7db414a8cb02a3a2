"""Train virtual tokens on a frozen teacher, so that what it says under them is easier for a student to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Model, Task, Teacher, suits
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.objectives.ramp import Scheduled, Term
from attar.objectives.reverse_kl import ReverseKL
from attar.optional import lazy
from attar.stages.assets import with_targets
from attar.stages.device import choose_device, choose_precision
from attar.stages.friendly_settings import FriendlySettings
from attar.stages.lesson import Lesson
from attar.stages.record import RecordSettings, record
from attar.stages.soft import PromptStart, train_prompt
from attar.stages.toward import Toward
from attar.store.files import read_json, write_json
from attar.students import folder as students
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.language_model import LanguageModelTeacher
from attar.teachers.recorded import RecordedTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PROBE = 8
"""Examples on which student and teacher are seen to answer alike."""


def friendly_lesson(
    task: Task,
    splits: Mapping[str, Examples],
    student: RecordedTeacher,
    plain: RecordedTeacher,
    settings: FriendlySettings,
) -> Lesson:
    """Return what a teacher's virtual tokens are taught: to agree with the student, and at first to stay the teacher.

    The loss is ``KL(prompted || student) + stay · KL(prompted || plain)``, at temperature 1.

    Args:
        task: turns examples into rows.
        splits: ``train``, of which both records know every example, and ``validation``, which ``plain`` knows.
        student: what the briefly distilled student says.
        plain: what the teacher says without virtual tokens.
        settings: see `FriendlySettings`.

    Raises:
        AttarError: a record does not hold what the loss compares with.
    """
    near = ReverseKL(ReverseKL.Settings(temperature=1.0))
    for spoken in (student, plain):
        if not suits(near, spoken.gives):
            raise AttarError(
                "A friendly prompt needs records of all scores or of the likeliest, and this one keeps "
                f"{spoken.codec.name}. Record with full or topk."
            )
    objective = Scheduled([Term(1.0, near), Term(settings.stay, Toward(near, plain, "stay"))])
    train, validation = (with_targets(splits[name], plain) for name in ("train", "validation"))
    return Lesson(task, train, validation, objective, student)


@dataclass(frozen=True)
class Players:
    """Say who plays a round.

    Args:
        teacher: its folder, as `attar.students.folder.save` wrote it; it stays as it is.
        student: the folder of a student that was distilled from it for a short while.
        task: turns examples into rows.
        plain: what the teacher said of the training and validation splits.
    """

    teacher: Path
    student: Path
    task: Task
    plain: RecordedTeacher


def friendly_round(
    players: Players,
    splits: Mapping[str, Examples],
    settings: FriendlySettings,
    seed: int,
    places: tuple[Path, Path],
    kept: RecordSettings | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Train a teacher's virtual tokens against a student and record what the teacher says under them.

    The student is then distilled on, from that record; playing several rounds is the caller's. A round that was killed
    goes on where it was: a finished part is not done again.

    What differs from the paper: there teacher's prompt and student change in turn with every step, both on texts that
    the student has just written; here the student stands still for a round, both are compared on the given texts and
    targets, and the student's own steps are an ordinary distillation. So the teacher answers the student's questions
    once a round, not live, and no second training loop is needed; the price is that the student's answers are as old
    as the round. Length, beginning, both divergences and the fading weight are the paper's; the rate is not.

    Args:
        players: teacher, student, task and the teacher's record.
        splits: ``train`` and ``validation``; the new record holds every split given.
        settings: see `FriendlySettings`.
        seed: of the beginning and the order.
        places: work folder, and content folder: ``model`` (the teacher under its virtual tokens) and ``answers``.
        kept: codec of both records; None keeps every choice.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        Facts for the artifact's card: ``student`` and ``record`` as `attar.stages.record.record` gives them, and
        ``prompt`` as `attar.stages.soft.train_prompt` does.

    Raises:
        AttarError: student and teacher do not answer the same questions, or a part cannot be done.

    Reference:
        Kim et al., "PromptKD: Distilling Student-Friendly Knowledge for Generative Language Models via Prompt Tuning",
        2024, section 3.
    """
    work, content = places
    kept = kept or RecordSettings()

    def recorded(folder: Path, some: Mapping[str, Examples], name: str, answers: Path) -> dict[str, Any]:
        speaker = _speaker(students.load(folder), players.task, device)
        return record(speaker, some, work / name, answers, None, kept)

    heard, model, answers = work / "student-answers", content / "model", content / "answers"
    train = {"train": splits["train"]}
    facts = {"student": _once(work / "student.json", lambda: recorded(players.student, train, "student", heard))}
    student = RecordedTeacher(heard, "student")
    _check_alike(student, players.plain, splits["train"])
    start = PromptStart(players.teacher, settings.prompt, _written(players.teacher, settings.begin))

    def trained() -> dict[str, Any]:
        lesson = friendly_lesson(players.task, splits, student, players.plain, settings)
        title = "bringing the teacher nearer to its student"
        return train_prompt(start, lesson, settings.train, seed, (work / "prompt", model), title, device)

    facts["prompt"] = _once(work / "prompt.json", trained)
    facts["record"] = _once(work / "record.json", lambda: recorded(model, splits, "record", answers))
    return facts


def _once(done: Path, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a part whose facts are not there yet, and write them."""
    if not done.is_file():
        write_json(done, part())
    facts: dict[str, Any] = read_json(done)
    return facts


def _speaker(model: Model, task: Task, device: str) -> Teacher:
    chosen = choose_device(device)
    dtype = choose_precision("auto", chosen)
    model.module.to(chosen)
    if task.name == "text-generation":
        return LanguageModelTeacher(model, task, "", dtype)
    return ClassifierTeacher(model, task, "", dtype)


def _check_alike(student: RecordedTeacher, plain: RecordedTeacher, examples: Examples) -> None:
    probe = examples.take(np.arange(min(PROBE, len(examples))))
    ours, theirs = student.answer(probe), plain.answer(probe)
    if ours.choices != theirs.choices or not torch.equal(ours.key, theirs.key):
        raise AttarError(
            f"The student answers {len(ours)} times with {ours.choices} choices where its teacher answers "
            f"{len(theirs)} times with {theirs.choices}. A friendly prompt needs a student of the same labels or, for "
            "tasks that write, of the teacher's tokenizer, both asked in chat or neither."
        )


def _written(teacher: Path, begin: str) -> TextPrompt | None:
    """Return the prompt that the virtual tokens begin as: the teacher's own with more before it, if it is no chat."""
    facts = read_json(teacher / students.CARD)["facts"]
    if not begin or "prompt" not in facts:
        return None
    own = TextPrompt.from_json(facts["prompt"])
    if own.chat:  # what is said first stands inside the system's message, where no token can be put before it
        return None
    return replace(own, instruction=f"{begin}\n\n{own.instruction}" if own.instruction else begin)
