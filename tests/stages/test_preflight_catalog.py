"""Every objective of the catalogue passes preflight at its defaults: none is refused before it can be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.examples import Examples
from attar.core.nouns import Model, Task
from attar.objectives.learned import features_of
from attar.stages.assets import objective_of
from attar.stages.lesson import Lesson
from attar.stages.preflight import preflight
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.language_model import LanguageModelTeacher

NAMES = sorted(catalog.TABLES["objective"])
SCORES = [name for name in NAMES if catalog.entry("objective", name).needs <= {"logits", "hard"}]
# a convnet has maps and an embedding, but no layers by number
MAPS: dict[str, dict[str, Any]] = {
    "hidden": {"pairs": [("map", "map")]},
    "attention_transfer": {"pairs": [("map", "map")]},
}
ON_TEXTS = {"attention_relation": {"heads": 4}}
"""Objectives of attention alone, which a convnet has none of."""


def _checks(student: Model, teacher: Model, task: Task, examples: Examples, terms: list[Any]) -> set[str]:
    objective = objective_of(terms)
    answers = ClassifierTeacher(teacher, task, "print", features=features_of(objective)[1])
    checks = preflight(student, Lesson(task, examples, examples, objective, answers))
    return {check["name"].partition(" (")[0] for check in checks}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ON_TEXTS])
def test_on_images(name: str, net: Callable[..., Model], images: Callable[..., Examples]) -> None:
    cnn = {"net": "cnn", "widths": (4, 6)}
    found = _checks(net(1, **cnn), net(5, **cnn), ImageClassification(), images(16), [(1.0, name, MAPS.get(name, {}))])
    assert ("the loss is a mean over row weights" in found) == catalog.entry("objective", name).by_row


@pytest.mark.parametrize("name", ON_TEXTS)
def test_on_attention(name: str, text_student: Model, texts: Examples) -> None:
    teacher = copy.deepcopy(text_student)
    torch.manual_seed(5)
    for parameter in teacher.module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    found = _checks(text_student, teacher, TextClassification(), texts, [(1.0, name, ON_TEXTS[name])])
    assert "gradient does not change with micro-batch size" in found


@pytest.mark.parametrize("name", SCORES)
def test_on_a_model_that_writes(name: str, writer: Callable[..., Model], pairs: Examples) -> None:
    task = TextGeneration()
    teacher = LanguageModelTeacher(writer(seed=9), task, "print")
    checks = preflight(writer(), Lesson(task, pairs, pairs, objective_of([(1.0, name, {})]), teacher))
    found = {check["name"] for check in checks}
    assert "a term of weight 0 equals the term left out" in found
    assert ("blocks of rows equal all at once" in found) == catalog.entry("objective", name).by_row
