from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.tasks.image_classification import ImageClassification, normalize
from attar.tasks.text_classification import TextClassification, tokenize


def test_texts_are_padded_right_and_cut_at_max_length(text_student: Any, texts: Examples) -> None:
    long = Examples(texts.keys[:2], ["a fine jacket", "a fine warm jacket " * 30], texts.labels[:2])
    batch = TextClassification().collate(text_student, long)
    mask = batch.inputs["attention_mask"]
    assert batch.inputs["input_ids"].shape == mask.shape == (2, 32)
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True)
    assert mask.sum(dim=1).tolist() == TextClassification().length(text_student, long).tolist()


def test_text_rows_carry_key_weight_and_logits(text_student: Any, texts: Examples) -> None:
    task = TextClassification()
    rows = task.rows(text_student, task.collate(text_student, texts))
    assert rows.key[:, 0].tolist() == texts.keys.tolist()
    assert rows.key[:, 1].tolist() == [0] * 8
    assert rows.weight.tolist() == [1.0] * 8
    assert rows.dense().shape == (8, 2)


def test_padding_does_not_change_what_is_said(text_student: Any, texts: Examples) -> None:
    task = TextClassification()
    with torch.no_grad():
        together = task.rows(text_student, task.collate(text_student, texts)).dense()
        alone = [
            task.rows(text_student, task.collate(text_student, texts.take(np.array([i])))).dense() for i in range(8)
        ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_the_plain_forward_is_the_same(text_student: Any, texts: Examples) -> None:
    task = TextClassification()
    with torch.no_grad():
        rows = task.rows(text_student, task.collate(text_student, texts)).dense()
        plain = text_student.module(**tokenize(text_student, list(texts.inputs))).logits
    assert torch.equal(rows, plain)


def test_pixels_by_hand() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    said = normalize(pixels, 0.5, 0.25)
    assert said.dtype == np.float32
    assert said.ravel().tolist() == pytest.approx([-2.0, -1.2, 2.0])


def test_images_give_one_row_each(net: Callable[..., Any], images: Callable[..., Examples]) -> None:
    task, model, examples = ImageClassification(), net(), images(6)
    batch = task.collate(model, examples)
    rows = task.rows(model, batch)
    assert batch.inputs["pixel_values"].shape == (6, 1, 8, 8)
    assert batch.targets.tolist() == examples.labels.tolist()
    assert rows.key[:, 0].tolist() == examples.keys.tolist()
    assert torch.equal(rows.dense(), model.module(batch.inputs["pixel_values"]))
    assert task.length(model, examples).tolist() == [1] * 6


def test_networks_that_return_an_object_are_read(net: Callable[..., Any], images: Callable[..., Examples]) -> None:
    class Said(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: torch.Tensor) -> Any:
            return type("Output", (), {"logits": self.inner(pixels)})

    task, model = ImageClassification(), net()
    batch = task.collate(model, images(2))
    plain = task.rows(model, batch).dense()
    model.module = Said(model.module)
    assert torch.equal(task.rows(model, batch).dense(), plain)


def test_a_prompt_is_read_around_each_text(label_reader: Callable[..., Any], texts: Examples) -> None:
    task, model = TextClassification(), label_reader(max_length=6)
    long = Examples(texts.keys[:2], ["a fine jacket", "a fine warm jacket " * 30], texts.labels[:2])
    batch = task.collate(model, long)
    mask = batch.inputs["attention_mask"]
    assert mask.sum(dim=1).tolist() == task.length(model, long).tolist()
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True)
    said = [model.processor.decode(ids[seen.bool()]) for ids, seen in zip(batch.inputs["input_ids"], mask, strict=True)]
    assert said[0] == "Review: a fine jacket\nSentiment:"
    assert said[1].startswith("Review: a fine")
    assert said[1].endswith("\nSentiment:")
    assert task.length(model, long.take(np.zeros(0, np.int64))).tolist() == []
    assert task.collate(model, long.take(np.zeros(0, np.int64))).inputs["input_ids"].shape == (0, 0)


def test_calibration_is_taken_from_the_scores(label_reader: Callable[..., Any], texts: Examples) -> None:
    task, model = TextClassification(), label_reader()
    with torch.no_grad():
        plain = task.rows(model, task.collate(model, texts)).dense()
        model.facts["prompt"]["calibration"] = [-0.5, -2.0]
        assert torch.equal(task.rows(model, task.collate(model, texts)).dense(), plain - torch.tensor([-0.5, -2.0]))
