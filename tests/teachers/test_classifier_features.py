"""A classifier teacher gives features in the examples' order, padded, without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attar.core.capture import rows_with_features
from attar.core.examples import Examples
from attar.core.rows import Rows
from attar.objectives.hidden import HiddenStates
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.teachers import classifier
from attar.teachers.classifier import ClassifierTeacher

NAMES = frozenset({"hidden:-1", "attention:0", "query:1", "pooled"})


def _teacher(model: Any, **changes: Any) -> ClassifierTeacher:
    return ClassifierTeacher(model, TextClassification(), "print", features=NAMES, **changes)


def test_it_gives_features_only_if_asked(text_student: Any) -> None:
    assert _teacher(text_student).gives == {"logits", "hard", "features"}
    assert ClassifierTeacher(text_student, TextClassification(), "print").gives == {"logits", "hard"}


def test_features_of_small_batches_are_those_of_each_example_alone(
    text_student: Any, texts: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "EXAMPLES_PER_BATCH", 3)
    rows = _teacher(text_student).answer(texts)
    mask = rows.features["mask"]
    sizes = mask.sum(dim=1)
    assert len(set(sizes.tolist())) > 3
    assert set(rows.features) == NAMES | {"mask"}
    for place in range(len(texts)):
        task, one = TextClassification(), texts.take(np.array([place]))
        with torch.no_grad():
            alone = rows_with_features(task, text_student, task.collate(text_student, one), NAMES).features
        size = int(sizes[place])
        assert alone["mask"].shape == (1, size)
        assert torch.allclose(rows.features["hidden:-1"][place, :size], alone["hidden:-1"][0], atol=1e-5)
        assert torch.allclose(rows.features["query:1"][place, :size], alone["query:1"][0], atol=1e-5)
        assert torch.allclose(rows.features["attention:0"][place, :, :size, :size], alone["attention:0"][0], atol=1e-5)
        assert torch.allclose(rows.features["pooled"][place], alone["pooled"][0], atol=1e-5)
        assert not rows.features["attention:0"][place, :, :, size:].any()


def test_any_order_gives_the_same_features(text_student: Any, texts: Examples) -> None:
    teacher, order = _teacher(text_student), np.array([6, 1, 4, 0, 2, 7, 5, 3])
    rows, other = teacher.answer(texts), teacher.answer(texts.take(order))
    for name, tensor in other.features.items():
        assert torch.allclose(tensor.float(), rows.features[name][torch.from_numpy(order)].float(), atol=1e-5)


def test_features_in_bfloat16_come_as_float32(text_student: Any, texts: Examples) -> None:
    rows = _teacher(text_student, autocast=torch.bfloat16).answer(texts)
    kinds = {name: tensor.dtype for name, tensor in rows.features.items()}
    assert kinds == {**dict.fromkeys(NAMES, torch.float32), "mask": torch.bool}


@pytest.mark.parametrize("count", [1, 8])
def test_a_loss_against_them_can_be_trained(text_student: Any, texts: Examples, count: int) -> None:
    some = texts.take(np.arange(count))
    said = _teacher(text_student).answer(some)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in said.features.values())
    state = (said.features["hidden:-1"] + 1).requires_grad_()
    rows = Rows(said.key, said.weight, said.logits, features={**said.features, "hidden:-1": state})
    loss = HiddenStates(HiddenStates.Settings(compare="cosine"))(rows, said, torch.zeros(count)).total
    loss.backward()
    assert state.grad is not None
    assert state.grad.abs().sum() > 0


def test_no_examples_give_no_features(text_student: Any, texts: Examples) -> None:
    rows = _teacher(text_student).answer(texts.take(np.array([], int)))
    assert len(rows) == 0
    assert rows.features == {}


def test_maps_of_images(net: Any, images: Any) -> None:
    model, examples = net(net="cnn", widths=(4, 6)), images(40)
    teacher = ClassifierTeacher(model, ImageClassification(), "print", features=frozenset({"map"}))
    rows = teacher.answer(examples)
    task = ImageClassification()
    alone = rows_with_features(task, model, task.collate(model, examples.take(np.array([37]))), ["map"])
    assert torch.allclose(rows.features["map"][37], alone.features["map"][0], atol=1e-5)
