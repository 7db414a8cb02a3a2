from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar import catalog
from attar.core.examples import Examples
from attar.core.prompt import TextPrompt
from attar.core.rows import example_rows
from attar.errors import AttarError
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.shard import frame, write
from attar.teachers.label_words import LabelWordTeacher
from attar.teachers.recorded import RecordedTeacher, write_index


class FakeScorer:
    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        return np.log(np.array([[len(text), 1.0] for text in texts], np.float32).reshape(-1, 2))


def _record(folder: Path, texts: Examples) -> RecordedTeacher:
    logits = torch.log_softmax(torch.arange(16.0).reshape(8, 2).sin() * 3, dim=-1)
    keys = torch.from_numpy(texts.keys)
    for name, places in (("a", [5, 0, 3]), ("b", [1, 2, 7, 4, 6])):
        rows, codec = example_rows(keys[places], logits[places]), FullCodec(FullCodec.Settings())
        tensors = {**frame(rows, rows.key[:, 0].numpy(), np.ones(len(rows), int)), **codec.encode(rows)}
        write(folder / f"{name}.safetensors", tensors, {"choices": 2})
    write_index(folder, codec)
    return RecordedTeacher(folder, "print")


def _classifier(text_student: Any) -> ClassifierTeacher:
    return ClassifierTeacher(text_student, TextClassification(), "print")


@pytest.fixture(params=["label_words", "classifier", "recorded"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path, texts: Examples, text_student: Any) -> Any:
    return {
        "label_words": lambda: LabelWordTeacher(FakeScorer(), TextPrompt("{text}", ("a", "b")), "print"),
        "classifier": lambda: _classifier(text_student),
        "recorded": lambda: _record(tmp_path, texts),
    }[request.param]()


def test_every_teacher_of_the_catalogue_is_here() -> None:
    here = {"classifier", "label_words", "recorded"}
    elsewhere = {"aligned", "endpoint", "ensemble", "language_model", "moving"}  # in files of their own
    assert here <= set(catalog.TABLES["teacher"]) <= here | elsewhere


def test_rows_come_in_the_examples_order_without_gradient(teacher: Any, texts: Examples) -> None:
    rows = teacher.answer(texts)
    assert teacher.gives == {"logits", "hard"}
    assert teacher.fingerprint == "print"
    assert rows.key[:, 0].tolist() == texts.keys.tolist()
    assert rows.dense().dtype == torch.float32
    assert rows.dense().shape == (8, 2)
    assert not rows.dense().requires_grad


def test_any_order_and_any_batch_give_the_same_rows(teacher: Any, texts: Examples) -> None:
    whole = teacher.answer(texts).dense()
    order = np.array([6, 1, 4])
    assert torch.allclose(teacher.answer(texts.take(order)).dense(), whole[torch.from_numpy(order)], atol=1e-5)


def test_no_examples_give_no_rows(teacher: Any, texts: Examples) -> None:
    rows = teacher.answer(texts.take(np.array([], int)))
    assert rows.dense().shape == (0, 2)
    assert rows.key.shape == (0, 2)


def test_a_classifier_answers_without_dropout(text_student: Any, texts: Examples) -> None:
    text_student.module.train()
    teacher = _classifier(text_student)
    assert torch.equal(teacher.answer(texts).dense(), teacher.answer(texts).dense())


def test_a_classifier_answers_more_than_a_batch(net: Callable[..., Any], images: Callable[..., Examples]) -> None:
    examples, model = images(70), net()
    rows = ClassifierTeacher(model, ImageClassification(), "print").answer(examples)
    plain = model.module(ImageClassification().collate(model, examples).inputs["pixel_values"])
    assert torch.allclose(rows.dense(), plain, atol=1e-6)
    assert rows.key[:, 0].tolist() == examples.keys.tolist()


def test_a_classifier_in_bfloat16_is_near_and_not_equal(text_student: Any, texts: Examples) -> None:
    exact = _classifier(text_student).answer(texts).dense()
    low = ClassifierTeacher(text_student, TextClassification(), "print", torch.bfloat16).answer(texts).dense()
    assert torch.allclose(exact, low, atol=0.05)
    assert not torch.equal(exact, low)


def test_a_record_answers_what_was_written(tmp_path: Path, texts: Examples) -> None:
    said = _record(tmp_path, texts).answer(texts).dense()
    exact = torch.log_softmax(torch.arange(16.0).reshape(8, 2).sin() * 3, dim=-1)
    assert torch.allclose(said, exact, atol=5e-3)


def test_a_record_refuses_unknown_examples(tmp_path: Path, texts: Examples) -> None:
    teacher = _record(tmp_path, texts)
    for strange in (0, 2**62, int(texts.keys.max()) + 1):
        other = Examples(np.array([texts.keys[0], strange]), ["a", "b"], np.zeros(2, int))
        with pytest.raises(AttarError, match="1 examples are not in the teacher's record"):
            teacher.answer(other)
