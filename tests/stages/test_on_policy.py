from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar import catalog
from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model, suits
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum
from attar.stages import on_policy as module
from attar.stages.lesson import Lesson, loss_of
from attar.stages.loop import Trainer
from attar.stages.on_policy import OnPolicy, OnPolicySettings
from attar.stages.schedule import TrainSettings
from attar.tasks.text_generation import TextGeneration, completion_tokens
from attar.tasks.writing import WritingSettings
from attar.teachers.language_model import LanguageModelTeacher

TASK = TextGeneration()
HARD = CrossEntropy(CrossEntropy.Settings())
BOTH = WeightedSum([(0.5, HARD), (0.5, ForwardKL(ForwardKL.Settings()))])


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: these kills are exceptions, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _policy(**changes: Any) -> OnPolicy:
    return OnPolicy(OnPolicySettings(**{"share": 1.0, "fresh": 1.0, **changes}))


def _scripted(monkeypatch: pytest.MonkeyPatch, written: Callable[[str], str]) -> list[list[str]]:
    """Let the student write what the test says; return the texts that it was asked for, call by call."""
    asked: list[list[str]] = []

    def write(model: Model, texts: list[str], settings: WritingSettings, seed: int) -> list[list[str]]:
        asked.append(texts)
        return [[written(text)] for text in texts]

    monkeypatch.setattr(module, "write", write)
    return asked


def _parts(examples: Examples) -> tuple[Any, ...]:
    assert examples.own is not None
    return examples.keys.tolist(), list(examples.inputs), list(examples.targets or ()), examples.own.tolist()


def test_all_targets_are_what_the_student_writes_now(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    drawn = _policy()(model, pairs, 3, 0.0)
    sampled = module.write(
        model, [str(text) for text in pairs.inputs], WritingSettings(how="sample"), module.derive(3, "own")
    )
    assert list(drawn.targets or ()) == [some[0] for some in sampled]
    assert drawn.inputs == list(pairs.inputs)
    assert drawn.own is not None
    assert drawn.own.all()
    assert len(set(drawn.keys.tolist()) | set(pairs.keys.tolist())) == 2 * len(pairs)


def test_the_share_of_own_texts_is_the_one_asked_for(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, lambda text: "mine")
    model, policy = writer(), _policy(share=0.25, fresh=0.5)
    counts = [int(policy(model, pairs, seed, 0.0).own.sum()) for seed in range(500)]  # type: ignore[union-attr]
    # of 4,000 draws with p = 0.25, the standard deviation of the share is 0.0068
    assert sum(counts) / (500 * len(pairs)) == pytest.approx(0.25, abs=0.03)
    assert len(set(counts)) > 1


def test_the_others_keep_key_text_and_target(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, lambda text: "mine")
    drawn = _policy(share=0.5)(writer(), pairs, 1, 0.0)
    assert drawn.own is not None
    kept = np.flatnonzero(~drawn.own)
    assert 0 < len(kept) < len(pairs)
    assert drawn.take(kept).targets == pairs.take(kept).targets
    assert drawn.take(kept).keys.tolist() == pairs.take(kept).keys.tolist()
    assert set(drawn.take(np.flatnonzero(drawn.own)).targets or ()) == {"mine"}


def test_where_the_student_writes_nothing_the_example_stays(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, lambda text: "")
    policy = _policy()
    drawn = policy(writer(), pairs, 1, 0.0)
    assert _parts(drawn) == (pairs.keys.tolist(), list(pairs.inputs), list(pairs.targets or ()), [False] * len(pairs))
    assert policy.state() == {"buffer": []}


def test_before_the_start_nothing_is_written(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _scripted(monkeypatch, lambda text: "mine")
    policy = _policy(start=0.5)
    assert policy(writer(), pairs, 1, 0.49) is pairs
    assert asked == []
    assert policy(writer(), pairs, 1, 0.5).targets == ["mine"] * len(pairs)


def test_the_buffer_holds_the_newest_texts_and_gives_each_once_a_step(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _scripted(monkeypatch, lambda text: f"{len(asked)}: {text}")
    policy = _policy(fresh=0.5, buffer=10)
    model, written = writer(), []
    for seed in range(20):
        before = [tuple(one) for one in policy.state()["buffer"]]
        drawn = policy(model, pairs, seed, 0.0)
        keys, inputs, targets, own = _parts(drawn)
        assert len(set(keys)) == len(pairs)
        assert all(own)
        new = [target for target in targets if target.startswith(f"{len(asked)}: ")]
        again = [
            (key, text, target) for key, text, target in zip(keys, inputs, targets, strict=True) if target not in new
        ]
        assert set(again) <= set(before)
        written += new
        assert [target for _, _, target in policy.state()["buffer"]] == written[-10:]
        assert len(new) + len(again) == len(pairs)
    assert 0.35 < len(written) / (20 * len(pairs)) < 0.65


def test_without_a_buffer_every_own_text_is_new(
    writer: Callable[..., Model], pairs: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _scripted(monkeypatch, lambda text: "mine")
    policy = _policy(fresh=0.1, buffer=0)
    for seed in range(3):
        policy(writer(), pairs, seed, 0.0)
    assert [len(texts) for texts in asked] == [len(pairs)] * 3
    assert policy.state() == {"buffer": []}


def test_a_restored_buffer_goes_on_as_the_first(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    first, second = _policy(fresh=0.5), _policy(fresh=0.5)
    for seed in range(3):
        first(model, pairs, seed, 0.0)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert _parts(second(model, pairs, 9, 0.0)) == _parts(first(model, pairs, 9, 0.0))
    second.restore({})
    assert second.state() == {"buffer": []}


def test_the_student_writes_without_dropout_and_trains_on(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    modes: list[bool] = []
    model.module.register_forward_pre_hook(lambda network, given: modes.append(network.training))
    model.module.train()
    _policy()(model, pairs, 1, 0.0)
    assert modes
    assert not any(modes)
    assert model.module.training


def _marked(pairs: Examples, marks: list[bool]) -> Examples:
    return Examples(pairs.keys, pairs.inputs, pairs.labels, pairs.targets, np.array(marks))


def test_own_texts_have_rows_and_no_hard_targets(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    marks = [place % 2 == 0 for place in range(len(pairs))]
    plain, marked = TASK.collate(model, pairs), TASK.collate(model, _marked(pairs, marks))
    assert torch.equal(plain.inputs["input_ids"], marked.inputs["input_ids"])
    place = 0
    for mark, target in zip(marks, pairs.targets or (), strict=True):
        ids = completion_tokens(model, target)
        expected = [UNKNOWN] * len(ids) if mark else ids
        assert marked.targets[place : place + len(ids)].tolist() == expected
        place += len(ids)
    assert place == len(marked.targets)


def test_cross_entropy_teaches_nothing_of_an_own_text(writer: Callable[..., Model], pairs: Examples) -> None:
    """Its gradient is that of the other examples alone, over the weight of all rows."""
    model = writer()
    mixed = _marked(pairs, [place < 5 for place in range(8)])
    gradients = []
    for examples in (mixed, pairs.take(np.arange(5, 8))):
        model.module.zero_grad()
        loss, rows = loss_of(Lesson(TASK, examples, examples, HARD), model, examples)
        (loss.total * rows.weight.sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()
    model.module.zero_grad()
    alone = mixed.take(np.arange(5))
    loss, _ = loss_of(Lesson(TASK, alone, alone, HARD), model, alone)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.module.parameters())


@pytest.mark.parametrize(
    "name", [n for n in catalog.table("objective") if suits(catalog.entry("objective", n), frozenset({"logits"}))]
)
def test_every_objective_of_logits_learns_from_own_texts(
    name: str, writer: Callable[..., Model], pairs: Examples
) -> None:
    kind = catalog.entry("objective", name)
    model, teacher = writer(), LanguageModelTeacher(writer(2), TASK, "")
    policy = _policy(share=0.5, fresh=0.5)
    policy(model, pairs, 0, 0.0)
    drawn = policy(model, pairs, 1, 0.0)
    lesson = Lesson(TASK, pairs, pairs, kind(kind.Settings()), teacher)
    loss, rows = loss_of(lesson, model, drawn)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert len(torch.unique(rows.key, dim=0)) == len(rows)
    assert any(p.grad is not None and p.grad.any() for p in model.module.parameters())


class Killed(Exception):
    """Stand for the kill of the process."""


def _run(
    writer: Callable[..., Model], pairs: Examples, work: Path, kill: tuple[str, int] | None = None, **settings: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Train a student on policy, and return the outcome and its weights; where ``kill`` names a method, die there."""
    lesson = Lesson(TASK, pairs, pairs.take(np.arange(3)), BOTH, LanguageModelTeacher(writer(2), TASK, ""))
    lesson = replace(lesson, draw=_policy(share=0.7, fresh=0.4, buffer=6))
    base = {"epochs": 3, "batch_size": 3, "learning_rate": 0.01, "precision": "float32", "checkpoint_seconds": 0}
    student = writer()
    trainer = Trainer(student, lesson, TrainSettings(**{**base, **settings}), 7, work, "cpu")
    if kill:
        plain, calls = getattr(trainer, kill[0]), [0]

        def dies(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == kill[1]:
                raise Killed
            return plain(*args)

        setattr(trainer, kill[0], dies)
    return trainer.run("t"), dict(student.module.state_dict())


@pytest.mark.parametrize(
    ("kill", "seconds"), [(("_step", 1), 0), (("_step", 5), 0), (("_save", 4), 0), (("_step", 5), 1000)], ids=str
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    kill: tuple[str, int], seconds: int, writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    outcome, ours = _run(writer, pairs, tmp_path / "a")
    with pytest.raises(Killed):
        _run(writer, pairs, tmp_path / "b", kill, checkpoint_seconds=seconds)
    again, theirs = _run(writer, pairs, tmp_path / "b")
    assert again == outcome
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_lost_buffer_would_show(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ours = _run(writer, pairs, tmp_path / "a")
    with pytest.raises(Killed):
        _run(writer, pairs, tmp_path / "b", ("_step", 5))
    monkeypatch.setattr(OnPolicy, "restore", lambda self, state: None)
    _, theirs = _run(writer, pairs, tmp_path / "b")
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_processes_draw_the_same_and_share_it_out(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    found = []
    for place, processes in ((0, 1), (0, 2), (1, 2)):
        lesson = Lesson(TASK, pairs, pairs, HARD, draw=_policy(share=0.6, fresh=0.5))
        settings = TrainSettings(batch_size=8, precision="float32")
        trainer = Trainer(writer(), lesson, settings, 7, tmp_path / f"{place}-{processes}", "cpu")
        trainer.accelerator = SimpleNamespace(device=torch.device("cpu"), process_index=place, num_processes=processes)
        steps = [_parts(trainer._examples(step)) for step in range(3)]
        found.append((steps, trainer.lesson.draw.state()))  # type: ignore[union-attr]
    (whole, kept), (first, kept_first), (second, kept_second) = found
    assert kept == kept_first == kept_second
    for step in range(3):
        assert tuple(part[::2] for part in whole[step]) == first[step]
        assert tuple(part[1::2] for part in whole[step]) == second[step]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_writing_takes_no_gradient_from_the_step(
    precision: str, writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    """Under autocast, weights cast while no gradient is taken must not be used again where one is."""
    _, after = _run(writer, pairs, tmp_path, steps=2, precision=precision, weight_decay=0.0, warmup=0.0)
    still = [name for name, tensor in writer().module.named_parameters() if torch.equal(after[name], tensor)]
    assert still == []
