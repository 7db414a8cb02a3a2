"""A teacher's virtual tokens are trained so that the teacher says what its student can follow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.objectives.ramp import Ramp
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import SoftSettings
from attar.stages import friendly
from attar.stages.assets import codec_of
from attar.stages.friendly import Players, friendly_lesson, friendly_round
from attar.stages.friendly_settings import FriendlySettings
from attar.stages.lesson import loss_of
from attar.stages.loop import Trainer
from attar.stages.record import RecordSettings, record
from attar.stages.schedule import TrainSettings
from attar.students import folder
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.language_model import LanguageModelTeacher
from attar.teachers.recorded import RecordedTeacher

TASK, WRITES = TextClassification(), TextGeneration()
Maker = Callable[..., Model]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _recorded(live: Any, examples: Examples, at: Path, kept: RecordSettings | None = None) -> RecordedTeacher:
    record(live, {"train": examples}, at / "work", at / "answers", None, kept)
    return RecordedTeacher(at / "answers", at.name)


def _settings(**changes: Any) -> FriendlySettings:
    base = {"steps": 30, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 0, "validations": 1}
    train = TrainSettings(**{**base, "precision": "float32", "checkpoint_seconds": 0, **changes.pop("train", {})})
    return FriendlySettings(**{"prompt": SoftSettings(length=4), "train": train, **changes})


def _moved(model: Model, seed: int) -> Model:
    torch.manual_seed(seed)
    for parameter in model.module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def splits(texts: Examples) -> dict[str, Examples]:
    return {"train": texts.take(np.arange(6)).without_labels(), "validation": texts.take(np.arange(6, 8))}


@pytest.fixture
def players(label_reader: Maker, texts: Examples, tmp_path: Path) -> Players:
    teacher, student = label_reader(), _moved(label_reader(), 4)
    folder.save(teacher, tmp_path / "teacher")
    folder.save(student, tmp_path / "student")
    plain = _recorded(ClassifierTeacher(teacher, TASK, ""), texts, tmp_path / "plain")
    return Players(tmp_path / "teacher", tmp_path / "student", TASK, plain)


def _kl(above: RecordedTeacher, below: RecordedTeacher, examples: Examples) -> float:
    log_p, log_q = (torch.log_softmax(one.answer(examples).dense().float(), dim=1) for one in (above, below))
    return float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean())


@pytest.mark.parametrize("kind", ["soft", "prefix"])
@pytest.mark.parametrize(("progress", "stay"), [(0.0, 1.0), (0.75, 0.25), (1.0, 0.0)])
def test_the_loss_is_the_papers_and_reaches_the_prompt_alone(
    kind: Any,
    progress: float,
    stay: float,
    players: Players,
    splits: dict[str, Examples],
    texts: Examples,
    tmp_path: Path,
) -> None:
    heard = _recorded(ClassifierTeacher(folder.load(players.student), TASK, ""), texts, tmp_path / "heard")
    model = add_prompt(folder.load(players.teacher), SoftSettings(kind=kind, length=3))
    lesson = friendly_lesson(TASK, splits, heard, players.plain, _settings())
    loss, rows = loss_of(lesson.at(progress), model, texts)
    loss.total.backward()
    learned = [name for name, p in model.module.named_parameters() if p.grad is not None]
    assert [name.endswith("prompt.values") for name in learned] == [True]
    found = model.module.get_parameter("prompt.values").grad
    logits = rows.dense().detach().requires_grad_()
    log_p = torch.log_softmax(logits, dim=1)
    parts = []
    for spoken in (heard, players.plain):
        log_q = torch.log_softmax(spoken.answer(texts).dense().float(), dim=1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(dim=1).mean())
    expected = parts[0] + stay * parts[1]
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    (above,) = torch.autograd.grad(expected, logits)
    again = TASK.rows(model, TASK.collate(model, texts)).dense()
    model.module.zero_grad()
    again.backward(above)
    assert found is not None
    assert torch.allclose(found, model.module.get_parameter("prompt.values").grad, atol=1e-6)  # type: ignore[arg-type]
    assert float(found.abs().max()) > 0


def test_hard_targets_are_the_plain_teachers_choices(players: Players, splits: dict[str, Examples]) -> None:
    lesson = friendly_lesson(TASK, splits, players.plain, players.plain, _settings())
    assert lesson.train.labels.tolist() == players.plain.answer(splits["train"]).dense().argmax(1).tolist()
    assert lesson.validation.labels.tolist() == [0, 1]


def test_a_round_brings_the_teacher_nearer(
    players: Players, splits: dict[str, Examples], texts: Examples, tmp_path: Path
) -> None:
    before = load_file(players.teacher / "model.safetensors")
    places = (tmp_path / "work", tmp_path / "content")
    facts = friendly_round(players, splits, _settings(), 0, places, device="cpu")
    heard = RecordedTeacher(tmp_path / "work/student-answers", "")
    spoken = RecordedTeacher(tmp_path / "content/answers", "")
    near, far = (_kl(one, heard, splits["train"]) for one in (spoken, players.plain))
    assert near < 0.7 * far
    assert _kl(spoken, players.plain, texts) > 1e-3
    assert all(check["passed"] for check in facts["prompt"]["preflight"])
    assert facts["prompt"]["prompt"]["virtual_tokens"] == 4
    assert facts["record"]["examples"] == 8
    model = folder.load(tmp_path / "content/model")
    live = ClassifierTeacher(model, TASK, "").answer(texts)
    kept = spoken.answer(texts)
    assert torch.allclose(
        kept.dense().float().softmax(1), live.dense().softmax(1), atol=0.02
    )  # one of them in bfloat16
    after = load_file(tmp_path / "content/model/model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_staying_holds_it_back(players: Players, splits: dict[str, Examples], texts: Examples, tmp_path: Path) -> None:
    apart = []
    for name, stay in (("free", Ramp(start=0, end=0)), ("held", Ramp(start=50, end=50))):
        places = (tmp_path / name, tmp_path / f"{name}-content")
        friendly_round(players, splits, _settings(stay=stay), 0, places, device="cpu")
        apart.append(_kl(RecordedTeacher(places[1] / "answers", ""), players.plain, texts))
    assert apart[1] < 0.5 * apart[0]


class Killed(Exception):
    """Stand for the kill of the process."""


@pytest.mark.parametrize("place", ["step", "record"])
def test_a_killed_round_goes_on(
    place: str,
    players: Players,
    splits: dict[str, Examples],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = _settings(train={"steps": 6})
    whole = (tmp_path / "a", tmp_path / "a-content")
    friendly_round(players, splits, settings, 0, whole, device="cpu")
    step, kept, asked = Trainer._step, record, list[str]()

    def dying(trainer: Trainer, number: int) -> dict[str, float]:
        if number == 3:
            raise Killed
        return step(trainer, number)

    def recording(*given: Any) -> dict[str, Any]:
        asked.append(given[2].name)
        if place == "record" and asked[-1] == "record" and len(asked) == 2:
            raise Killed
        return kept(*given)

    places = (tmp_path / "b", tmp_path / "b-content")
    monkeypatch.setattr("attar.stages.friendly.record", recording)
    with monkeypatch.context() as patch:
        if place == "step":
            patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            friendly_round(players, splits, settings, 0, places, device="cpu")
    facts = friendly_round(players, splits, settings, 0, places, device="cpu")
    assert asked == (["student", "record"] if place == "step" else ["student", "record", "record"])
    for name in ("model/prompt.safetensors", "answers/train-000000.safetensors"):
        assert (places[1] / name).read_bytes() == (whole[1] / name).read_bytes()
    assert friendly_round(players, splits, settings, 0, places, device="cpu") == facts


def test_a_teacher_that_writes(writer: Maker, pairs: Examples, tmp_path: Path) -> None:
    teacher, student = writer(1), writer(9)
    folder.save(teacher, tmp_path / "teacher")
    folder.save(student, tmp_path / "student")
    kept = RecordSettings(codec_of("topk", {"k": 16, "temperatures": (1.0,)}))
    plain = _recorded(LanguageModelTeacher(teacher, WRITES, ""), pairs, tmp_path / "plain", kept)
    players = Players(tmp_path / "teacher", tmp_path / "student", WRITES, plain)
    splits = {"train": pairs.take(np.arange(6)), "validation": pairs.take(np.arange(6, 8))}
    places = (tmp_path / "work", tmp_path / "content")
    facts = friendly_round(players, splits, _settings(), 0, places, kept, "cpu")
    curve = [row["loss"] for row in facts["prompt"]["history"]]
    assert curve[-1] < curve[0]
    spoken = RecordedTeacher(tmp_path / "content/answers", "").answer(pairs)
    assert torch.equal(spoken.key, plain.answer(pairs).key)


@pytest.mark.parametrize("instruction", ["", "Judge the review."])
def test_it_begins_as_what_is_said_to_a_student(
    instruction: str, label_reader: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"), instruction=instruction)
    folder.save(label_reader(own), tmp_path / "teacher")
    written = friendly._written(tmp_path / "teacher", "Suppose you are a student.")
    assert written is not None
    assert written.render("x").startswith("Suppose you are a student.")
    assert written.render("x").endswith(own.render("x"))
    model = add_prompt(folder.load(tmp_path / "teacher"), SoftSettings(length=3), written)
    assert model.kind == "prompted"
    folder.save(label_reader(replace(own, chat=True)), tmp_path / "chat")
    assert friendly._written(tmp_path / "chat", "Suppose you are a student.") is None
    assert friendly._written(tmp_path / "teacher", "") is None


def test_a_student_of_other_labels_is_refused(
    players: Players, splits: dict[str, Examples], label_reader: Maker, tmp_path: Path
) -> None:
    other = label_reader()
    other.facts |= {"labels": ["fine", "bad", "so-so"]}
    other.facts["prompt"] = {**other.facts["prompt"], "words": ["good", "bad", "warm"]}
    folder.save(other, tmp_path / "other")
    with pytest.raises(AttarError, match="with 3 choices where its teacher answers 6 times with 2"):
        friendly_round(
            replace(players, student=tmp_path / "other"), splits, _settings(), 0, (tmp_path / "w", tmp_path / "c")
        )


def test_a_sampled_record_is_refused(players: Players, splits: dict[str, Examples], tmp_path: Path) -> None:
    live = ClassifierTeacher(folder.load(players.student), TASK, "")
    kept = RecordSettings(codec_of("sampled", {"temperatures": (1.0,)}))
    sampled = _recorded(live, splits["train"], tmp_path / "sampled", kept)
    with pytest.raises(AttarError, match="this one keeps sampled"):
        friendly_lesson(TASK, splits, sampled, players.plain, _settings())
