"""A sum pulls towards a second record, whose rows are found by key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.rows import Rows, example_rows
from attar.objectives.blocks import Sizes, evaluate
from attar.objectives.contrastive import Contrastive
from attar.objectives.reverse_kl import ReverseKL
from attar.stages.assets import codec_of
from attar.stages.record import RecordSettings, record
from attar.stages.toward import Toward, rows_at
from attar.tasks.text_generation import TextGeneration
from attar.teachers.language_model import LanguageModelTeacher
from attar.teachers.recorded import RecordedTeacher

NEAR = ReverseKL(ReverseKL.Settings(temperature=1.0))
TASK = TextGeneration()
NOWHERE = torch.zeros(0, dtype=torch.long)


@pytest.fixture
def spoken(writer: Callable[..., Model], pairs: Examples, tmp_path: Path) -> RecordedTeacher:
    """Return a record of the likeliest tokens, several rows an example."""
    settings = RecordSettings(codec_of("topk", {"k": 16, "temperatures": (1.0,)}), 0, 3)
    live = LanguageModelTeacher(writer(2), TASK, "")
    record(live, {"train": pairs}, tmp_path / "work", tmp_path / "record", None, settings)
    return RecordedTeacher(tmp_path / "record", "")


def test_rows_come_in_the_order_of_their_keys(spoken: RecordedTeacher, pairs: Examples) -> None:
    straight = spoken.answer(pairs)
    mixed = torch.randperm(len(straight), generator=torch.Generator().manual_seed(0))[:10]
    found = rows_at(spoken, straight.key[mixed])
    assert torch.equal(found.key, straight.key[mixed])
    assert found.top is not None
    assert straight.top is not None
    assert torch.equal(found.top.ids, straight.top.ids[mixed])
    assert len(rows_at(spoken, straight.key[:0])) == 0
    twice = rows_at(spoken, straight.key[[4, 4]])
    assert torch.equal(twice.top.ids[0], twice.top.ids[1])  # type: ignore[union-attr]


def test_other_rows_are_a_mistake(spoken: RecordedTeacher, pairs: Examples) -> None:
    with pytest.raises(ValueError, match="their keys differ"):
        rows_at(spoken, torch.tensor([[int(pairs.keys[0]), 99]]))


def test_it_is_the_objective_against_the_record(
    spoken: RecordedTeacher, writer: Callable[..., Model], pairs: Examples
) -> None:
    toward, rows = Toward(NEAR, spoken, "stay"), TASK.rows(writer(3), TASK.collate(writer(3), pairs))
    logits = rows.dense().detach().requires_grad_()
    student = Rows(rows.key, rows.weight, logits)
    loss = toward(student, example_rows(rows.key[:, 0], torch.randn_like(logits)), NOWHERE)
    plain = NEAR(student, spoken.answer(pairs), NOWHERE)
    assert float(loss.total.detach()) == pytest.approx(float(plain.total.detach()))
    assert loss.parts == {"stay": loss.total.detach()}
    (gradient,), (expected,) = (torch.autograd.grad(one.total, logits) for one in (loss, plain))
    assert torch.equal(gradient, expected)
    assert float(gradient.abs().max()) > 1e-4
    assert not toward.divergence


def test_blocks_of_rows_find_their_own(spoken: RecordedTeacher, writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer(3)
    lazy = TASK.rows(model, TASK.collate(model, pairs)).detach()
    toward = Toward(NEAR, spoken, "stay")
    targets = torch.zeros(len(lazy), dtype=torch.long)
    whole = toward(Rows(lazy.key, lazy.weight, lazy.dense()), None, targets).total
    blocks = evaluate(toward, lazy, None, targets, Sizes(5, 2, 64)).total
    assert float(blocks) == pytest.approx(float(whole), rel=1e-5)


def test_relations_between_rows_are_refused(spoken: RecordedTeacher) -> None:
    with pytest.raises(ValueError, match="means over rows"):
        Toward(Contrastive(Contrastive.Settings()), spoken, "stay")


def test_an_example_never_recorded_is_told(spoken: RecordedTeacher) -> None:
    from attar.errors import AttarError

    with pytest.raises(AttarError, match="1 examples are not in the teacher's record"):
        spoken.answer(Examples(np.array([5]), ["x"], np.array([0])))
