"""Train prompts in the one loop: only the prompt changes, and a kill changes nothing."""

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
from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.hidden import HiddenStates
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import SoftSettings
from attar.stages.lesson import Lesson
from attar.stages.loop import Trainer
from attar.stages.moving import EmaSettings, SelfTeaching
from attar.stages.schedule import TrainSettings
from attar.stages.soft import PromptStart, train_prompt
from attar.students import folder
from attar.students.settings import ModelSettings
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

HARD = CrossEntropy(CrossEntropy.Settings())
KL = ForwardKL(ForwardKL.Settings(temperature=2))
PROMPT = {"template": "Review: {text}\nSentiment:", "words": ["bad", "good"], "chat": False, "demonstrations": []}
OWN = {**PROMPT, "calibration": None, "name": "own"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Oracle:
    """Answer by key, as a record would."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "oracle"

    def answer(self, examples: Examples) -> Rows:
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return example_rows(keys, torch.stack([keys.double().sin(), keys.double().cos()], dim=1).float() * 2)


class Killed(Exception):
    """Stand for the kill of the process."""


@pytest.fixture
def reader_folder(llama_folder: Path, tmp_path: Path) -> Path:
    settings = ModelSettings(model=str(llama_folder), answers_by="label_words", max_length=24)
    model = folder.make(settings, llama_folder, ["bad", "good"], (), {"prompt": OWN})
    folder.save(model, tmp_path / "reader")
    return tmp_path / "reader"


def _lesson(texts: Examples, objective: Any = HARD, task: Any = None) -> Lesson:
    teacher: Any = Oracle() if objective is not HARD else None
    return Lesson(task or TextClassification(), texts, texts, objective, teacher)


def _train(start: PromptStart, lesson: Lesson, work: Path, **settings: Any) -> dict[str, Any]:
    base = {"epochs": 6, "batch_size": 4, "learning_rate": 0.05, "precision": "float32", "checkpoint_seconds": 0}
    train = TrainSettings(**{**base, **settings})
    return train_prompt(start, lesson, train, 3, (work / "work", work / "content"), "t", "cpu")


def _begun(start: PromptStart) -> torch.Tensor:
    module: Any = start.make().module
    return module.prompt.values  # type: ignore[no-any-return]


def _values(work: Path) -> torch.Tensor:
    return dict(load_file(work / "content" / "prompt.safetensors"))["values"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["soft", "prefix"])
@pytest.mark.parametrize("objective", [HARD, KL], ids=["hard", "taught"])
def test_only_the_prompt_learns(
    kind: Any, objective: Any, reader_folder: Path, texts: Examples, tmp_path: Path
) -> None:
    before = (reader_folder / "model.safetensors").read_bytes()
    start = PromptStart(reader_folder, SoftSettings(kind=kind, length=4))
    facts = _train(start, _lesson(texts, objective), tmp_path / "run", epochs=20)
    assert facts["history"][-1]["loss"] < 0.8 * facts["history"][0]["loss"]
    assert facts["prompt"]["length"] == 4
    assert all(check["passed"] for check in facts["preflight"])
    own, after = load_file(reader_folder / "model.safetensors"), load_file(tmp_path / "run/content/model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in own.items())
    assert (reader_folder / "model.safetensors").read_bytes() == before
    assert folder.load(tmp_path / "run/content").kind == "prompted"


@pytest.mark.parametrize("kind", ["soft", "prefix"])
@pytest.mark.parametrize("kill", [("_step", 5), ("_validate", 2), ("_save", 4)], ids=str)
def test_killed_and_continued_it_is_the_same_prompt(
    kind: Any,
    kill: tuple[str, int],
    reader_folder: Path,
    texts: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = PromptStart(reader_folder, SoftSettings(kind=kind, length=4))
    undisturbed = _train(start, _lesson(texts), tmp_path / "a")
    plain, calls = getattr(Trainer, kill[0]), [0]

    def dies(self: Trainer, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == kill[1]:
            raise Killed
        return plain(self, *args)

    monkeypatch.setattr(Trainer, kill[0], dies)
    with pytest.raises(Killed):
        _train(start, _lesson(texts), tmp_path / "b")
    again = _train(start, _lesson(texts), tmp_path / "b")
    assert {**again, "clock": None} == {**undisturbed, "clock": None}
    assert torch.equal(_values(tmp_path / "a"), _values(tmp_path / "b"))


def test_checkpoints_hold_the_prompt_alone(reader_folder: Path, texts: Examples, tmp_path: Path) -> None:
    _train(PromptStart(reader_folder, SoftSettings(length=4)), _lesson(texts), tmp_path)
    (checkpoint,) = (tmp_path / "work/checkpoint").glob("step-*")
    for path in (checkpoint / "model.safetensors", tmp_path / "work/checkpoint/best.safetensors"):
        assert [tuple(tensor.shape) for tensor in load_file(path).values()] == [(4, 32)]


def test_a_moving_average_of_a_frozen_model_survives_a_kill(
    images: Callable[..., Examples], net: Callable[..., Model], tmp_path: Path
) -> None:
    def trainer(work: str) -> Trainer:
        task = ImageClassification()
        lesson = Lesson(task, images(12), images(12), HARD, moving=SelfTeaching(EmaSettings(), task))
        settings = TrainSettings(steps=8, batch_size=6, precision="float32", checkpoint_seconds=0, learning_rate=0.1)
        model = add_prompt(net(), SoftSettings(kind="pixel", length=2))
        return Trainer(model, lesson, settings, 1, tmp_path / work, "cpu")

    whole = trainer("a")
    whole.run("t")
    cut, plain = trainer("b"), Trainer._step
    cut._step = lambda step: plain(cut, step) if step < 5 else (_ for _ in ()).throw(Killed)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        cut.run("t")
    again = trainer("b")
    again.run("t")
    ends = zip(whole.trained.state_dict().values(), again.trained.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in ends)


@pytest.mark.parametrize("kind", ["soft", "prefix"])
def test_a_writer_learns_under_all_checks(
    kind: Any, writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    folder.save(writer(), tmp_path / "writer")
    start = PromptStart(tmp_path / "writer", SoftSettings(kind=kind, length=3))
    facts = _train(start, _lesson(pairs, task=TextGeneration()), tmp_path / "run", epochs=10, learning_rate=0.1)
    names = {check["name"] for check in facts["preflight"] if check["passed"]}
    assert {"the causal shift is right", "hidden states and head give the model's own scores"} <= names
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]


def test_an_image_model_learns(images: Callable[..., Examples], net: Callable[..., Model], tmp_path: Path) -> None:
    model = net()
    folder.save(model, tmp_path / "net")
    lesson = Lesson(ImageClassification(), images(32), images(20, seed=1), HARD)
    facts = _train(PromptStart(tmp_path / "net", SoftSettings(kind="pixel", whole=True)), lesson, tmp_path / "run")
    losses = [row["validation_loss"] for row in facts["history"] if "validation_loss" in row]
    assert losses[-1] < losses[0]
    own, after = load_file(tmp_path / "net/model.safetensors"), load_file(tmp_path / "run/content/model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in own.items())


def test_it_begins_as_what_is_written(reader_folder: Path, texts: Examples, tmp_path: Path) -> None:
    written = replace(TextPrompt.from_json(OWN), instruction="Judge the review.")
    start = PromptStart(reader_folder, SoftSettings(length=5), written)
    assert torch.equal(_begun(start), _begun(start))
    _train(start, _lesson(texts), tmp_path, steps=1, learning_rate=1e-9, weight_decay=0)
    assert torch.allclose(_values(tmp_path), _begun(start), atol=1e-6)


def test_features_are_refused_for_virtual_tokens(reader_folder: Path, texts: Examples, tmp_path: Path) -> None:
    teacher: Any = Oracle()
    lesson = Lesson(TextClassification(), texts, texts, HiddenStates(HiddenStates.Settings()), teacher)
    with pytest.raises(AttarError, match="cannot learn from an objective that compares features"):
        _train(PromptStart(reader_folder, SoftSettings()), lesson, tmp_path)


def test_nothing_to_learn_from_is_refused(reader_folder: Path, texts: Examples, tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="training split is empty"):
        _train(PromptStart(reader_folder, SoftSettings()), _lesson(texts.take(np.arange(0))), tmp_path)
    with pytest.raises(AttarError, match="cannot be read"):
        _train(PromptStart(tmp_path / "nowhere", SoftSettings()), _lesson(texts), tmp_path)
