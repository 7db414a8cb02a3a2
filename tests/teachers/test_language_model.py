from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.tasks.text_generation import TextGeneration
from attar.teachers import language_model
from attar.teachers.language_model import LanguageModelTeacher


def test_it_answers_in_the_examples_order_whatever_the_batches(writer: Callable[..., Model], pairs: Examples) -> None:
    model, task = writer(), TextGeneration()
    teacher = LanguageModelTeacher(model, task, "print")
    whole = task.rows(model, task.collate(model, pairs))
    language_model.TOKENS_PER_BATCH, kept = 40, language_model.TOKENS_PER_BATCH
    try:
        said = teacher.answer(pairs)
    finally:
        language_model.TOKENS_PER_BATCH = kept
    assert torch.equal(said.key, whole.key)
    assert torch.allclose(said.dense(), whole.dense(), atol=1e-4)
    assert not said.dense().requires_grad
    assert said.head is not None


def test_it_answers_nothing_to_nothing(writer: Callable[..., Model], pairs: Examples) -> None:
    teacher = LanguageModelTeacher(writer(), TextGeneration(), "print")
    assert len(teacher.answer(pairs.take(np.arange(0)))) == 0
