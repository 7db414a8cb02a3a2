"""A language model that answers by label words says what its own head says, and saves as a plain language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.cache import with_cache
from attar.core.capture import rows_with_features
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.errors import AttarError
from attar.prompts.scoring.label_words import LabelWordScorer
from attar.stages.distill import Origin
from attar.students import folder
from attar.students.bias import apply_bias
from attar.students.label_word_classifier import LabelWordClassifier
from attar.students.label_words import SPARE
from attar.students.settings import LayerChoice, ModelSettings
from attar.tasks.text_classification import TextClassification

SHOWN = (("soft and warm", 0), ("the zip broke", 1))
PLAIN = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"))
PROMPTS = {
    "running": PLAIN,
    "shown": replace(PLAIN, demonstrations=SHOWN, instruction="Is the review {options}?", calibration=(-0.2, -1.7)),
    "chat": TextPrompt("{text}", ("good", "bad"), True, SHOWN[:1], instruction="Say {options}."),
}
TASK = TextClassification()
Maker = Callable[..., Model]


def _said(model: Model, texts: Examples) -> torch.Tensor:
    with torch.no_grad():
        return TASK.rows(model, TASK.collate(model, texts)).dense()


@pytest.fixture
def long(texts: Examples) -> Examples:
    return Examples(texts.keys, [*texts.inputs[:6], "", "a fine warm jacket " * 20], texts.labels)


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_are_the_scores_of_the_label_words(name: str, label_reader: Maker, long: Examples) -> None:
    model, prompt = label_reader(PROMPTS[name]), PROMPTS[name]
    lm: Any = model.module.lm
    scores = LabelWordScorer(lm, model.processor, 24).answer(prompt, list(long.inputs))
    apart = _said(model, long).numpy() - scores
    assert np.abs(apart - apart.mean(axis=1, keepdims=True)).max() < 1e-5
    assert np.ptp(scores[:, 0]) > 0.1


def test_only_the_words_go_through_the_head(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    head: Any = model.module.lm.get_output_embeddings()  # type: ignore[union-attr, operator]
    head.register_forward_hook(lambda *_: pytest.fail("the whole head was used"))
    assert _said(model, texts).shape == (8, 2)


def test_padding_changes_nothing(label_reader: Maker, long: Examples) -> None:
    model = label_reader(PROMPTS["chat"])
    alone = torch.cat([_said(model, long.take(np.array([place]))) for place in range(len(long))])
    assert torch.allclose(_said(model, long), alone, atol=1e-5)
    batch = TASK.collate(model, long)
    ids, mask = batch.inputs["input_ids"].clone(), batch.inputs["attention_mask"]
    assert int((mask == 0).sum()) > 0
    ids[mask == 0] = 77
    with torch.no_grad():
        assert torch.equal(model.module(ids, mask).logits, model.module(**batch.inputs).logits)


def test_embeddings_and_keys_before_read_the_same(label_reader: Maker, texts: Examples) -> None:
    from transformers import DynamicCache

    model = label_reader()
    network: Any = model.module
    batch = TASK.collate(model, texts)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    with torch.no_grad():
        whole = network(ids, mask).logits
        embedded = network(inputs_embeds=network.get_input_embeddings()(ids), attention_mask=mask).logits
        cache = DynamicCache(config=network.config)
        network.lm.base_model(
            **with_cache(network.lm.base_model, {"input_ids": ids[:, :3], "cache": cache, "use_cache": True})
        )
        after = network(ids[:, 3:], mask, cache=cache).logits  # the mask covers what stands before, too
        unpadded = network(ids[:1, : int(mask[0].sum())]).logits
    assert torch.equal(whole, embedded)
    assert torch.allclose(whole[:1], unpadded, atol=1e-5)
    assert torch.allclose(whole, after, atol=1e-5)


def test_gradients_are_those_of_the_language_model(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    network: Any = model.module
    some = texts.take(np.arange(3))
    batch = TASK.collate(model, some)
    torch.nn.functional.cross_entropy(TASK.rows(model, batch).dense(), batch.targets).backward()
    found = {name: p.grad.clone() for name, p in network.lm.named_parameters()}
    network.zero_grad()
    last = batch.inputs["attention_mask"].sum(1) - 1
    logits = network.lm(**batch.inputs).logits[torch.arange(3), last][:, network.words]
    torch.nn.functional.cross_entropy(logits, batch.targets).backward()
    for name, parameter in network.lm.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name
        assert parameter.grad.abs().max() > 0


def test_the_heads_bias_scale_and_cap_count() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "head_dim": 8, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "final_logit_softcapping": 0.5}
    lm = Gemma2ForCausalLM(Gemma2Config(initializer_range=1.0, **sizes, **heads)).eval()
    lm.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 20))
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        wanted = lm(ids).logits[:, -1, [7, 2]]
        assert torch.allclose(LabelWordClassifier(lm, [7, 2])(ids).logits, wanted, atol=1e-6)
    assert wanted.abs().max() < 0.5


def test_what_is_saved_is_a_plain_language_model(label_reader: Maker, texts: Examples, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = label_reader(PROMPTS["shown"], layers=(1,))
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    assert (loaded.kind, loaded.facts) == ("label_words", model.facts)
    assert torch.equal(_said(loaded, texts), _said(model, texts))
    plain, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    network: Any = model.module
    assert len(words) == len(model.processor)
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in network.lm.named_parameters()}
    assert all(torch.equal(p, dict(plain.named_parameters())[name]) for name, p in network.lm.named_parameters())
    assert plain.config.num_hidden_layers == 1


def test_layers_are_chosen_by_damage(label_reader: Maker, llama_folder: Path, texts: Examples) -> None:
    settings = ModelSettings(model=str(llama_folder), answers_by="label_words", layers=LayerChoice(count=1))
    facts = {"prompt": PLAIN.to_json()}
    model = Origin(settings, llama_folder, ["fine", "bad"], (), facts, TASK, texts).make()
    assert model.kind == "label_words"
    assert model.facts["layers"]["measure"] == "kl"
    assert torch.equal(
        _said(model, texts), _said(label_reader(layers=tuple(model.facts["layers"]["kept"]), max_length=128), texts)
    )


def test_features_of_layers_are_found(label_reader: Maker, texts: Examples) -> None:
    model = label_reader()
    batch = TASK.collate(model, texts)
    found = rows_with_features(TASK, model, batch, ["hidden:*", "attention:0"]).features
    assert found["hidden:1"].shape == (*batch.inputs["input_ids"].shape, 32)
    assert found["attention:0"].shape[1] == 4


def test_a_prompt_leaves_the_text_what_room_it_can(label_reader: Maker) -> None:
    tokens = prompt_tokens(label_reader().processor, PLAIN)
    assert label_reader(max_length=4096).facts["max_length"] == 512 - tokens - SPARE
    with pytest.raises(AttarError, match="reads 512 in all: no room is left"):
        label_reader(replace(PLAIN, demonstrations=SHOWN * 100))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (replace(PLAIN, words=("good", "goods")), "begin with the same token"),
        (replace(PLAIN, words=("good", "bad", "so")), "one word for each label"),
        (replace(PLAIN, words=()), "one word for each label"),
    ],
)
def test_label_words_that_cannot_tell_labels_apart(prompt: TextPrompt, said: str, label_reader: Maker) -> None:
    with pytest.raises(AttarError, match=said):
        label_reader(prompt)


def test_a_prompt_and_labels_are_needed(llama_folder: Path) -> None:
    settings = ModelSettings(model=str(llama_folder), answers_by="label_words")
    with pytest.raises(AttarError, match="needs a prompt"):
        folder.make(settings, llama_folder, ["fine", "bad"], ())
    with pytest.raises(AttarError, match="is for classes of texts"):
        folder.make(settings, llama_folder, (), ())


@pytest.mark.parametrize("origin", [{"model": "timm:resnet18"}, {"build": {"net": "mlp"}}])
def test_a_network_without_words_is_refused(origin: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a causal language model"):
        ModelSettings(answers_by="label_words", **origin)


def test_a_prior_is_corrected_by_calibration_not_by_a_bias(label_reader: Maker) -> None:
    with pytest.raises(AttarError, match=r"cannot be corrected. Set distill.prior: none"):
        apply_bias(label_reader(), np.array([0.5, -0.5]))
