"""A student reads its teacher's prompt with a share of a step's examples, and at the end with none."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.ramp import Ramp
from attar.stages.lesson import Draw, Lesson, loss_of
from attar.stages.loop import Outcome, Trainer
from attar.stages.prompt_dropout import PromptDropout, PromptDropoutSettings, bare_prompt
from attar.stages.record import record
from attar.stages.schedule import TrainSettings
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration, prompt_of
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.language_model import LanguageModelTeacher
from attar.teachers.recorded import RecordedTeacher

SHOWN = (("soft and warm", 0), ("the zip broke", 1))
PLAIN = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"))
WHOLE = replace(PLAIN, demonstrations=SHOWN, calibration=(-0.3, -1.9), name="whole", instruction="Is it {options}?")
KL = ForwardKL(ForwardKL.Settings(temperature=1.0))
TASK, WRITES = TextClassification(), TextGeneration()
Maker = Callable[..., Model]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def whole_record(label_reader: Maker, texts: Examples, tmp_path: Path) -> RecordedTeacher:
    """Return what the model says under the whole prompt."""
    live = ClassifierTeacher(label_reader(WHOLE), TASK, "")
    record(live, {"train": texts}, tmp_path / "record-work", tmp_path / "record")
    return RecordedTeacher(tmp_path / "record", "whole")


def _dropout(share: Any, whole: TextPrompt = WHOLE) -> PromptDropout:
    return PromptDropout(PromptDropoutSettings(share=share), whole)


def _rows(model: Model, examples: Examples, task: Any = TASK) -> Any:
    with torch.no_grad():
        return task.rows(model, task.collate(model, examples))


def _train(
    model: Model, lesson: Lesson, work: Path, draw: Draw | None, steps: int = 6, rate: float = 0.01
) -> tuple[Outcome, dict[str, torch.Tensor]]:
    base = {"batch_size": 4, "precision": "float32", "checkpoint_seconds": 0, "validations": 2}
    settings = TrainSettings(**base, steps=steps, learning_rate=rate)
    trainer = Trainer(model, replace(lesson, draw=draw), settings, 5, work, "cpu")
    return trainer.run("t"), {name: tensor.clone() for name, tensor in trainer.plain.state_dict().items()}


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_bare_asks_alike() -> None:
    bare = bare_prompt(WHOLE)
    assert WHOLE.render("x").endswith(bare.render("x"))
    assert bare.words == WHOLE.words
    assert bare.calibration is None
    assert bare.render("x") == "Review: x\nSentiment:"


def test_share_0_shows_none_and_share_1_all(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    assert _dropout(0.0)(model, texts, 1, 0.3) is texts
    every = _dropout(1.0)(model, texts, 1, 0.3)
    assert every.prompts == [WHOLE] * len(texts)
    assert every.keys.tolist() == texts.keys.tolist()
    own, whole = _rows(label_reader(WHOLE), texts), _rows(model, every)
    assert torch.equal(own.dense(), whole.dense())
    assert torch.equal(own.key, whole.key)


def test_each_example_is_read_under_its_prompt(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    drawn = _dropout(0.5)(model, texts, 3, 0.0)
    assert drawn.prompts == [WHOLE] * 4 + [None] * 4
    assert sorted(drawn.keys.tolist()) == sorted(texts.keys.tolist())
    whole, bare = _rows(label_reader(WHOLE), drawn).dense(), _rows(model, replace(drawn, prompts=None)).dense()
    found = _rows(model, drawn)
    assert torch.allclose(found.dense(), torch.cat([whole[:4], bare[4:]]), atol=1e-5)
    assert found.key[:, 0].tolist() == drawn.keys.tolist()
    assert (whole - bare).abs().max() > 0.1
    lengths = TASK.length(model, drawn)
    assert lengths[:4].min() > lengths[4:].max()
    assert torch.equal(TASK.collate(model, drawn).inputs["attention_mask"].sum(dim=1), torch.from_numpy(lengths))


def test_the_share_is_exact_in_the_mean(label_reader: Maker, texts: Examples) -> None:
    model, dropout = label_reader(), _dropout(0.3)
    drawn = [dropout(model, texts, seed, 0.0) for seed in range(400)]
    shown = [one.keys[: sum(prompt is not None for prompt in one.prompts or ())] for one in drawn]
    assert {len(keys) for keys in shown} == {2, 3}
    times = np.unique(np.concatenate(shown), return_counts=True)[1]
    assert abs(times.sum() / 400 - 2.4) < 0.1
    assert len(times) == len(texts)
    assert times.min() > 80


def test_annealing_ends_without_the_prompt(label_reader: Maker, texts: Examples) -> None:
    model, dropout = label_reader(), PromptDropout(PromptDropoutSettings(), WHOLE)
    steps = [dropout(model, texts, step, step / 20).prompts or () for step in range(20)]
    counts = [sum(one is not None for one in step) for step in steps]
    assert counts[0] == 8
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(counts))
    assert counts[10:] == [0] * 10


def test_a_step_is_a_function_of_its_seed(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    first, again = (_dropout(0.5)(model, texts, 7, 0.2) for _ in range(2))
    assert first.keys.tolist() == again.keys.tolist()
    assert first.prompts == again.prompts
    assert any(_dropout(0.5)(model, texts, seed, 0.2).keys.tolist() != first.keys.tolist() for seed in range(3))
    assert _dropout(0.5).state() == {}


def test_the_teacher_under_its_prompt_has_nothing_to_learn(
    label_reader: Maker, texts: Examples, whole_record: RecordedTeacher
) -> None:
    model, lesson = label_reader(), Lesson(TASK, texts, texts, KL, whole_record)
    drawn = _dropout(1.0)(model, texts, 1, 0.0)
    loss, rows = loss_of(lesson, model, drawn)
    loss.total.backward()
    assert torch.equal(rows.key, whole_record.answer(drawn).key)
    assert abs(float(loss.total.detach())) < 1e-5
    assert max(float(p.grad.abs().max()) for p in model.module.parameters() if p.grad is not None) < 2e-3
    other, _ = loss_of(lesson, model, texts)
    assert float(other.total.detach()) > 1e-2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_at_the_ends_is_training_under_one_prompt(
    share: float, label_reader: Maker, texts: Examples, whole_record: RecordedTeacher, tmp_path: Path
) -> None:
    lesson = Lesson(TASK, texts, texts, KL, whole_record)
    _, drawn = _train(label_reader(), lesson, tmp_path / "a", _dropout(share))
    _, plain = _train(label_reader(), replace(lesson, draw=None), tmp_path / "b", None)
    assert _same(drawn, plain) == (share == 0.0)


def test_validation_reads_the_students_own_prompt(
    label_reader: Maker, texts: Examples, whole_record: RecordedTeacher, tmp_path: Path
) -> None:
    lesson = Lesson(TASK, texts, texts, KL, whole_record)
    outcome, _ = _train(label_reader(), lesson, tmp_path / "a", _dropout(1.0), steps=1, rate=1e-12)
    scores = _rows(label_reader(), texts).dense()
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(texts.labels))
    assert outcome.history[-1]["validation_loss"] == pytest.approx(float(expected), abs=1e-4)


class Killed(Exception):
    """Stand for the kill of the process."""


@pytest.mark.parametrize("last", [1, 3, 4])
def test_killed_and_continued_it_draws_the_same(
    last: int,
    label_reader: Maker,
    texts: Examples,
    whole_record: RecordedTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lesson, anneal = Lesson(TASK, texts, texts, KL, whole_record), Ramp(start=1, end=0, until=0.8)
    undisturbed, weights = _train(label_reader(), lesson, tmp_path / "a", _dropout(anneal))
    step = Trainer._step

    def dying(trainer: Trainer, place: int) -> dict[str, float]:
        if place == last:
            raise Killed
        return step(trainer, place)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            _train(label_reader(), lesson, tmp_path / "b", _dropout(anneal))
    continued, after = _train(label_reader(), lesson, tmp_path / "b", _dropout(anneal))
    assert _same(weights, after)
    assert continued.history == undisturbed.history


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_written_has_the_same_rows_under_either_prompt(
    chat: bool, writer: Maker, pairs: Examples, tmp_path: Path
) -> None:
    student, teacher = writer(chat=chat), writer(chat=chat)
    own = prompt_of(student)
    whole = replace(own, demonstrations=(("soft and warm", "Soft"),), instruction="Write a title.", name="whole")
    teacher.facts["prompt"] = whole.to_json()
    said = LanguageModelTeacher(teacher, WRITES, "")
    drawn = _dropout(0.5, whole)(student, pairs, 2, 0.0)
    rows, live = _rows(student, drawn, WRITES), said.answer(drawn)
    assert torch.equal(rows.key, live.key)
    shown = torch.isin(rows.key[:, 0], torch.from_numpy(drawn.keys[:4]))
    assert torch.allclose(rows.dense()[shown], live.dense()[shown], atol=1e-4)
    assert not torch.allclose(rows.dense()[~shown], live.dense()[~shown], atol=1e-2)
    loss, _ = loss_of(Lesson(WRITES, pairs, pairs, KL, said), student, _dropout(1.0, whole)(student, pairs, 2, 0.0))
    assert abs(float(loss.total.detach())) < 1e-5
    assert WRITES.length(student, drawn)[:4].min() > WRITES.length(student, pairs).max()


def test_students_that_cannot_read_it_are_refused(
    label_reader: Maker, text_student: Model, writer: Maker, texts: Examples
) -> None:
    with pytest.raises(AttarError, match="reads the text alone"):
        _dropout(1.0)(text_student, texts, 0, 0.0)
    with pytest.raises(AttarError, match="same label words"):
        _dropout(1.0, replace(WHOLE, words=("warm", "bad")))(label_reader(), texts, 0, 0.0)
    with pytest.raises(AttarError, match="both chat or neither"):
        _dropout(1.0, replace(prompt_of(writer()), chat=True))(writer(), texts, 0, 0.0)
    with pytest.raises(AttarError, match=r"the student reads 512\. Set a smaller student\.max_length"):
        _dropout(1.0, replace(WHOLE, instruction="warm " * 500))(label_reader(), texts, 0, 0.0)


def test_an_encoder_reads_no_prompt_even_if_one_is_named(text_student: Model, texts: Examples) -> None:
    named = replace(texts, prompts=[WHOLE] * len(texts))
    assert torch.equal(_rows(text_student, named).dense(), _rows(text_student, texts).dense())


def test_no_example_is_no_mistake(label_reader: Maker, texts: Examples) -> None:
    nothing = texts.take(np.arange(0))
    assert len(_dropout(1.0)(label_reader(), nothing, 0, 0.0)) == 0
    assert len(TASK.collate(label_reader(), replace(nothing, prompts=[])).targets) == 0


def test_prompts_are_one_an_example_and_go_with_it(texts: Examples) -> None:
    with pytest.raises(ValueError, match="one prompt each: 8 examples, 1 prompts"):
        replace(texts, prompts=[WHOLE])
    mixed = replace(texts, prompts=[WHOLE, None] * 4)
    assert mixed.take(np.array([3, 0])).prompts == [None, WHOLE]


def test_a_share_is_at_most_1() -> None:
    with pytest.raises(ValidationError, match=r"in \[0, 1\], got 2 and 0"):
        PromptDropoutSettings(share=Ramp(start=2, end=0))
    with pytest.raises(ValidationError):
        PromptDropoutSettings(share=1.5)
    assert PromptDropoutSettings.model_validate({"share": {"start": 1, "end": 0.2}}).at(0.5) == pytest.approx(0.6)
