from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.students import folder
from attar.students.settings import ModelSettings
from attar.students.transformers import load_tokenizer


def _make(source: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    return folder.make(ModelSettings(model=str(source), **settings), source, ["a", "b", "c"], ())


def test_pretrained_weights_are_kept_and_the_head_is_new(bert_folder: Path) -> None:
    from transformers import AutoModel

    source = AutoModel.from_pretrained(bert_folder)
    model = _make(bert_folder)
    assert torch.equal(model.module.get_input_embeddings().weight, source.get_input_embeddings().weight)
    assert model.module.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.module.classifier.out_features == 3


def test_shape_alone(bert_folder: Path) -> None:
    torch.manual_seed(5)
    settings = ModelSettings(model=str(bert_folder), pretrained=False)
    fresh, again = folder.make(settings, bert_folder, ["a", "b", "c"], ()), _make(bert_folder)
    assert fresh.module.config.hidden_size == 32
    assert not torch.equal(fresh.module.get_input_embeddings().weight, again.module.get_input_embeddings().weight)


@pytest.mark.parametrize("layers", [1, (1,)])
def test_layers_are_those_asked_for(layers: Any, bert_folder: Path, tmp_path: Path) -> None:
    whole, part = _make(bert_folder), _make(bert_folder, layers=layers)
    stack = part.module.bert.encoder.layer
    chosen = whole.module.bert.encoder.layer[0 if layers == 1 else 1]
    assert len(stack) == 1
    pairs = zip(stack[0].parameters(), chosen.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    folder.save(part, tmp_path)
    assert len(folder.load(tmp_path).module.bert.encoder.layer) == 1


def test_more_layers_than_there_are(bert_folder: Path) -> None:
    with pytest.raises(AttarError, match="the model has 2 layers"):
        _make(bert_folder, layers=3)


def test_max_length_is_bounded_by_positions_and_tokenizer(bert_folder: Path) -> None:
    assert _make(bert_folder, max_length=500).facts["max_length"] == 64
    assert _make(bert_folder, max_length=16).facts["max_length"] == 16


def test_tokenizer_without_padding_gets_one(llama_folder: Path) -> None:
    tokenizer = load_tokenizer(llama_folder)
    assert tokenizer.pad_token == "<eos>"
    assert tokenizer.padding_side == "right"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="cannot be loaded as a classifier"):
        _make(tmp_path)
    with pytest.raises(AttarError, match="no tokenizer that transformers can read"):
        load_tokenizer(tmp_path)


def test_no_weights_at_all(bert_folder: Path) -> None:
    with pytest.raises(AttarError, match="needs `model`"):
        folder.make(ModelSettings(model=str(bert_folder)), None, ["a"], ())
