"""What a trained model starts from: layers by damage are those of a list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.core.examples import Examples
from attar.stages.distill import Origin
from attar.students.settings import LayerChoice, ModelSettings
from attar.tasks.text_classification import TextClassification


def _origin(bert_folder: Path, texts: Examples, layers: Any) -> Origin:
    settings = ModelSettings(model=str(bert_folder), layers=layers, max_length=32)
    return Origin(settings, bert_folder, ["fine", "bad"], (), {}, TextClassification(), texts)


def _state(origin: Origin) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return dict(origin.make().module.state_dict())


def test_layers_by_damage_give_the_model_of_the_same_list_of_layers(bert_folder: Path, texts: Examples) -> None:
    origin = _origin(bert_folder, texts, LayerChoice(count=1))
    torch.manual_seed(5)
    made = origin.make()
    facts = made.facts["layers"]
    assert facts["measure"] == "influence"  # the head is new
    assert len(facts["kept"]) == 1
    listed = _state(_origin(bert_folder, texts, tuple(facts["kept"])))
    assert made.module.state_dict().keys() == listed.keys()
    assert all(torch.equal(tensor, listed[name]) for name, tensor in made.module.state_dict().items())


def test_what_is_new_in_the_model_does_not_depend_on_the_measuring(bert_folder: Path, texts: Examples) -> None:
    first = _state(_origin(bert_folder, texts, LayerChoice(count=1, texts=2)))
    second = _state(_origin(bert_folder, texts, LayerChoice(count=1, texts=8, measure="kl")))
    assert torch.equal(first["classifier.weight"], second["classifier.weight"])


def test_a_teachers_head_is_trusted_with_the_exact_measure(
    bert_folder: Path, text_student: Any, texts: Examples, tmp_path: Path
) -> None:
    from attar.students import folder

    folder.save(text_student, tmp_path)
    origin = _origin(bert_folder, texts, LayerChoice(count=1))
    own = origin.settings.model_copy(update={"model": "teacher"})
    made = replace(origin, settings=own, weights=tmp_path).make()
    assert made.facts["layers"]["measure"] == "kl"


def test_layers_by_damage_need_something_to_measure_on(bert_folder: Path, texts: Examples) -> None:
    with pytest.raises(ValueError, match="need a task and examples"):
        replace(_origin(bert_folder, texts, LayerChoice(count=1)), examples=None).make()
