"""The correction in a run: on unlabelled examples that are not the test's, checked on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import UNKNOWN, DataSet, Examples
from attar.core.nouns import Model
from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.stages.prior import correct_prior, rare, unlabelled
from attar.students.prior import mean_mass
from attar.tasks.image_classification import ImageClassification
from attar.teachers.classifier import ClassifierTeacher

TASK = ImageClassification()


class Oracle:
    """Answer with fixed logits by key, as a record would."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "oracle"

    def answer(self, examples: Examples) -> Rows:
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return example_rows(keys, torch.stack([keys.float().sin(), keys.float().cos()], dim=1) * 2)


def _scores(model: Model, examples: Examples) -> np.ndarray:
    return ClassifierTeacher(model, TASK, "").answer(examples).dense().double().numpy()


def _data(images: Callable[..., Examples], spare: Examples | None = None) -> DataSet:
    gold = frozenset({"train", "validation", "test"})
    parts = [replace(images(n, seed=n), keys=np.arange(n) + 1000 * n) for n in (10, 8, 6)]
    return DataSet(("above", "below"), *parts, gold, spare=spare)  # type: ignore[misc]


@pytest.mark.parametrize("prior", ["uniform", [0.2, 0.8], "teacher"])
def test_the_models_own_masses_become_the_prior(prior: Any, net: Any, images: Callable[..., Examples]) -> None:
    model, examples = net(), images(40)
    before = _scores(model, examples)
    facts = correct_prior(model, TASK, examples, prior, Oracle())
    wanted = {"uniform": [0.5, 0.5], "teacher": mean_mass(Oracle().answer(examples).dense().numpy()).tolist()}
    expected = wanted[prior] if isinstance(prior, str) else prior
    after = _scores(model, examples)
    assert mean_mass(after) == pytest.approx(expected, abs=1e-6)
    assert after - before == pytest.approx(np.tile(facts["bias"], (40, 1)), abs=1e-5)
    assert facts["prior"] == pytest.approx(expected, abs=1e-6)
    assert facts["before"] == pytest.approx(mean_mass(before), abs=1e-6)
    assert facts["after"] == pytest.approx(expected, abs=2e-6)
    assert facts["changed"] == pytest.approx((before.argmax(1) != after.argmax(1)).mean())
    assert (facts["examples"], facts["wanted"]) == (40, prior if isinstance(prior, str) else "given")


def test_no_other_bias_brings_the_student_closer_to_the_teacher(net: Any, images: Callable[..., Examples]) -> None:
    model, examples = net(), images(40)
    correct_prior(model, TASK, examples, "teacher", Oracle())
    said = torch.softmax(Oracle().answer(examples).dense().double(), dim=1)
    scores = torch.from_numpy(_scores(model, examples))

    def divergence(more: float) -> float:
        own = torch.log_softmax(scores + torch.tensor([more, -more]), dim=1)
        return float((said * (said.log() - own)).sum(dim=1).mean())

    assert divergence(0) < min(divergence(more) for more in (-0.5, -0.01, 0.01, 0.5))


def test_both_sides_of_the_teachers_prior_are_softened(net: Any, images: Callable[..., Examples]) -> None:
    model, examples = net(), images(40)
    facts = correct_prior(model, TASK, examples, "teacher", Oracle(), temperature=4)
    said = Oracle().answer(examples).dense().numpy()
    assert mean_mass(_scores(model, examples), 4) == pytest.approx(mean_mass(said, 4), abs=1e-6)
    assert facts["after"] == pytest.approx(facts["prior"], abs=2e-6)


def test_labels_are_not_read(net: Any, images: Callable[..., Examples]) -> None:
    one, two, examples = net(), net(), images(20)
    first = correct_prior(one, TASK, examples, [0.3, 0.7])
    wrong = replace(examples, labels=1 - examples.labels)
    assert correct_prior(two, TASK, wrong, [0.3, 0.7]) == first


def test_correcting_twice_changes_nothing_more(net: Any, images: Callable[..., Examples]) -> None:
    model, examples = net(), images(20)
    correct_prior(model, TASK, examples, [0.3, 0.7])
    assert correct_prior(model, TASK, examples, [0.3, 0.7])["bias"] == pytest.approx([0, 0], abs=1e-5)


def test_the_test_split_and_labels_stay_out_of_sight(images: Callable[..., Examples]) -> None:
    spare = replace(images(4, seed=9), keys=np.arange(4) + 90_000)
    data = _data(images, spare)
    seen = unlabelled(data)
    assert seen.keys.tolist() == [*data.validation.keys.tolist(), *spare.keys.tolist()]
    assert np.array_equal(seen.inputs[:8], data.validation.inputs)
    assert (seen.labels == UNKNOWN).all()
    assert unlabelled(data, recorded=True).keys.tolist() == data.validation.keys.tolist()
    assert unlabelled(_data(images)).keys.tolist() == data.validation.keys.tolist()


def test_texts_are_joined_too(texts: Examples) -> None:
    half, rest = texts.take(np.arange(4)), texts.take(np.arange(4, 8))
    data = DataSet(("fine", "bad"), half, half, half, frozenset(), spare=rest)
    assert unlabelled(data).inputs == texts.inputs


class _Twisted(torch.nn.Module):
    """End in a linear layer whose output is not the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.head(pixels.flatten(1)))


def test_a_head_that_is_not_the_logits_is_refused_and_left_as_it_was(images: Callable[..., Examples]) -> None:
    torch.manual_seed(0)
    facts = {"labels": ["above", "below"], "mean": 0.5, "std": 0.5}
    model = Model(_Twisted(), "net", None, facts)
    before = {name: values.clone() for name, values in model.module.state_dict().items()}
    with pytest.raises(AttarError, match="last linear layer of _Twisted does not give the logits"):
        correct_prior(model, TASK, images(20), [0.1, 0.9])
    assert all(torch.equal(before[name], values) for name, values in model.module.state_dict().items())


def test_what_cannot_be_corrected_is_said(net: Any, images: Callable[..., Examples]) -> None:
    with pytest.raises(AttarError, match="at least one unlabelled example"):
        correct_prior(net(), TASK, images(20).take(np.arange(0)), "uniform")
    with pytest.raises(AttarError, match="one number for each of the 2 classes"):
        correct_prior(net(), TASK, images(20), [1.0])
    with pytest.raises(AttarError, match="a task with classes"):
        correct_prior(replace(net(), facts={}), TASK, images(20), "uniform")
    with pytest.raises(ValueError, match="only the teacher's prior can be softened"):
        correct_prior(net(), TASK, images(20), "uniform", temperature=2)


def test_rare_classes_are_those_with_less_than_half_of_their_prior() -> None:
    assert rare(np.array([0.0, 0.49, 0.51]), np.array([0.2, 0.98, 1.0])) == [0]
    assert rare(np.array([0.3, 0.4, 0.3]), np.array([0.2, 0.9, 0.2]), share=0.2) == []
