"""A layer's damage is what the model loses without it, and the layers of most damage are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.damage import choose_by_damage, layer_damage
from attar.core.examples import UNKNOWN, Examples
from attar.core.layers import keep_layers, layer_list
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.students.settings import ModelSettings
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

TEXT, WRITES = TextClassification(), TextGeneration()
LAYERS = 4


def _bert(tmp_path: Path, words: Any, seed: int = 0) -> Model:
    """Return a random BERT of four layers, whose third does next to nothing."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.3}
    config = BertConfig(vocab_size=len(words), num_hidden_layers=LAYERS, max_position_embeddings=64, **sizes)
    module = BertForSequenceClassification(config)
    _silence(module.bert.encoder.layer[2])
    module.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = folder.make(ModelSettings(model=str(tmp_path), max_length=32), tmp_path, ["fine", "bad"], ())
    model.module.eval()
    return model


def _silence(layer: torch.nn.Module) -> None:
    """Let a layer's two blocks add next to nothing to what they are given."""
    with torch.no_grad():
        for part in (layer.attention.output.dense, layer.output.dense):  # type: ignore[union-attr]
            part.weight.mul_(1e-3)
            part.bias.zero_()


@pytest.fixture
def bert(tmp_path: Path, tokenizer: Callable[[str], Any]) -> Model:
    return _bert(tmp_path, tokenizer("wordpiece"))


def _logits(model: Model, texts: Examples) -> torch.Tensor:
    with torch.no_grad():
        return TEXT.rows(model, TEXT.collate(model, texts)).dense().double()


def _cut(model: Model, without: int) -> Model:
    """Return a copy of the model without a layer, really cut out."""
    import copy

    module = copy.deepcopy(model.module)
    keep_layers(module, tuple(i for i in range(LAYERS) if i != without))
    return Model(module, model.kind, model.processor, model.facts)


def test_influence_is_that_of_the_models_own_hidden_states(bert: Model, texts: Examples) -> None:
    found = layer_damage(bert, TEXT, texts, "influence")
    turned, count = np.zeros(LAYERS), 0
    for text in texts.inputs:
        inputs = bert.processor(text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            states = bert.module(**inputs, output_hidden_states=True).hidden_states
        for place in range(LAYERS):
            a, b = states[place][0].double(), states[place + 1][0].double()
            cosine = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
            turned[place] += float((1 - cosine).sum())
        count += states[0].shape[1]
    assert found == pytest.approx(turned / count, rel=1e-3, abs=1e-6)
    assert found.argmin() == 2


def test_kl_is_to_the_model_with_the_layer_really_cut_out(bert: Model, texts: Examples) -> None:
    found = layer_damage(bert, TEXT, texts, "kl")
    whole = torch.log_softmax(_logits(bert, texts), dim=1)
    for place in range(LAYERS):
        less = torch.log_softmax(_logits(_cut(bert, place), texts), dim=1)
        wanted = float((whole.exp() * (whole - less)).sum(dim=1).mean())
        assert found[place] == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_loss_is_the_rise_of_cross_entropy_over_known_labels(bert: Model, texts: Examples) -> None:
    texts.labels[3:5] = UNKNOWN
    found = layer_damage(bert, TEXT, texts, "loss")
    known, labels = torch.from_numpy(texts.labels >= 0), torch.from_numpy(texts.labels)
    plain = torch.nn.functional.cross_entropy(_logits(bert, texts)[known], labels[known])
    for place in range(LAYERS):
        less = torch.nn.functional.cross_entropy(_logits(_cut(bert, place), texts)[known], labels[known])
        assert found[place] == pytest.approx(float(less - plain), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("measure", ["influence", "kl", "loss"])
def test_the_layer_that_does_nothing_goes_first(measure: Any, bert: Model, texts: Examples) -> None:
    found = choose_by_damage(bert, TEXT, texts, 3, measure)
    if measure != "loss":  # a layer that harms is better gone than one that does nothing
        assert found.kept == (0, 1, 3)
    left_out = [i for i in range(LAYERS) if i not in found.kept]
    assert left_out == [int(np.argmin(found.damage))]
    assert (found.measure, found.texts, found.greedy) == (measure, 8, False)


def test_the_model_is_left_as_it_was(bert: Model, texts: Examples) -> None:
    before = _logits(bert, texts)
    bert.module.train()
    for measure in ("influence", "kl"):
        choose_by_damage(bert, TEXT, texts, 2, measure, greedy=True)  # type: ignore[arg-type]
    assert bert.module.training
    bert.module.eval()
    assert torch.equal(_logits(bert, texts), before)
    assert not any(layer._forward_hooks for layer in layer_list(bert.module)[2])


def test_greedy_measures_the_others_again_after_each_layer(bert: Model, texts: Examples) -> None:
    gone: list[int] = []
    for _ in range(2):
        fresh = layer_damage(bert, TEXT, texts, "kl", gone)
        assert np.isnan(fresh[gone]).all()
        gone.append(int(np.nanargmin(fresh)))
    found = choose_by_damage(bert, TEXT, texts, 2, "kl", greedy=True)
    assert found.kept == tuple(i for i in range(LAYERS) if i not in gone)
    assert found.greedy


def test_damage_without_layers_that_are_gone_is_that_of_the_smaller_model(bert: Model, texts: Examples) -> None:
    small = _cut(bert, 2)
    inside = layer_damage(bert, TEXT, texts, "kl", [2])
    assert inside[[0, 1, 3]] == pytest.approx(layer_damage(small, TEXT, texts, "kl"), rel=1e-4, abs=1e-6)


def test_equal_damage_takes_the_last_layer_first(texts: Examples, tmp_path: Path, tokenizer: Any) -> None:
    model = _bert(tmp_path, tokenizer("wordpiece"))
    for layer in layer_list(model.module)[2]:
        with torch.no_grad():
            for part in layer.modules():
                if isinstance(part, torch.nn.Linear):
                    part.weight.zero_()
                    part.bias.zero_()
    found = choose_by_damage(model, TEXT, texts, 2, "kl")
    assert found.kept == (0, 1)


def test_all_layers_may_be_kept_and_no_more(bert: Model, texts: Examples) -> None:
    assert choose_by_damage(bert, TEXT, texts, LAYERS, "influence").kept == (0, 1, 2, 3)
    with pytest.raises(AttarError, match="the model has 4 layers, got 5"):
        choose_by_damage(bert, TEXT, texts, LAYERS + 1, "influence")


def test_only_as_many_texts_are_read_as_asked_for(bert: Model, texts: Examples) -> None:
    found = choose_by_damage(bert, TEXT, texts, 2, "influence", texts=3)
    spread = layer_damage(bert, TEXT, texts.take(np.array([0, 4, 7])), "influence")
    assert found.texts == 3
    assert found.damage == pytest.approx(spread)


@pytest.mark.parametrize("measure", ["influence", "kl", "loss"])
def test_a_language_model_is_measured_on_its_targets(
    measure: Any, writer: Callable[..., Model], pairs: Examples
) -> None:
    model = writer()
    found = layer_damage(model, WRITES, pairs, measure)
    assert found.shape == (2,)
    assert np.isfinite(found).all()
    if measure == "influence":
        return
    with torch.no_grad():
        batch = WRITES.collate(model, pairs)
        whole = torch.log_softmax(WRITES.rows(model, batch).dense().double(), dim=1)
        keep_layers(model.module, (0,))
        less = torch.log_softmax(WRITES.rows(model, batch).dense().double(), dim=1)
    rise = (whole - less).gather(1, batch.targets[:, None]).mean()
    kl = (whole.exp() * (whole - less)).sum(dim=1).mean()
    assert found[1] == pytest.approx(float(kl if measure == "kl" else rise), rel=1e-3)


@pytest.mark.parametrize("measure", ["influence", "kl", "loss"])
def test_examples_without_a_target_are_no_ground_for_a_choice(
    measure: Any, writer: Callable[..., Model], texts: Examples
) -> None:
    with pytest.raises(AttarError, match=r"no training example says .*data\.gold"):
        layer_damage(writer(), WRITES, texts, measure)


def test_the_facts_are_json(bert: Model, texts: Examples) -> None:
    import json

    facts = choose_by_damage(bert, TEXT, texts, 2, "influence").to_json()
    assert json.loads(json.dumps(facts)) == facts
    assert len(facts["damage"]) == LAYERS
