"""Features come from where their names say, with gradient, and the network is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.core.capture import capture, joined, rows_with_features
from attar.core.places import FeatureError, stack
from attar.errors import AttarError
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification

IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def bert(**changes: Any) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
    return BertModel(BertConfig(vocab_size=20, max_position_embeddings=16, **{**sizes, **changes})).eval()


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": 20}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=20, n_positions=16)).eval()


def cnn() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    ).eval()


def look(module: Any, *names: str) -> dict[str, torch.Tensor]:
    with capture(module, names) as found:
        module(input_ids=IDS, attention_mask=MASK)
    return found


def test_hidden_states_of_bert_are_those_of_the_library() -> None:
    model = bert()
    said = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    found = look(model, "hidden:0", "hidden:-1", "hidden:1")
    assert torch.equal(found["hidden:0"], said[1])
    assert torch.equal(found["hidden:1"], said[2])
    assert torch.equal(found["hidden:-1"], said[3])


def test_a_star_gives_every_layer() -> None:
    assert sorted(look(bert(), "hidden:*")) == ["hidden:0", "hidden:1", "hidden:2"]


@pytest.mark.parametrize("make", [bert, llama, gpt2])
def test_attention_probabilities_are_those_of_the_library(make: Any) -> None:
    model = make()
    before = model.config._attn_implementation
    found = look(model, "attention:1")["attention:1"]
    assert model.config._attn_implementation == before == "sdpa"
    model.set_attn_implementation("eager")
    said = model(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions[1]
    assert found.shape == (2, 4, 4, 4)
    assert torch.allclose(found, said)


def test_attention_is_not_taken_for_the_bias_that_comes_with_it() -> None:
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    model = T5EncoderModel(T5Config(vocab_size=20, **sizes)).eval()
    found = look(model, "attention:0")["attention:0"]
    assert found.shape == (2, 4, 4, 4)
    assert torch.allclose(found.sum(dim=-1), torch.ones(2, 4, 4))
    assert not found[1, :, :, 2:].any()


def test_attention_that_is_only_given_to_dropout_is_found_before_it() -> None:
    from transformers import MPNetConfig, MPNetModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    model = MPNetModel(MPNetConfig(vocab_size=20, attention_probs_dropout_prob=0.5, **sizes)).train()
    found = look(model, "attention:-1")["attention:-1"]
    assert torch.allclose(found.sum(dim=-1), torch.ones(2, 4, 4))
    said = model.eval()(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions[-1]
    assert torch.allclose(look(model, "attention:-1")["attention:-1"], said)


def test_a_transformer_has_no_map() -> None:
    with pytest.raises(FeatureError, match="has attention, and is no plain convnet"), capture(bert(), ["map"]):
        pass


def test_attention_is_captured_without_dropout_and_the_rest_keeps_its_own() -> None:
    model = bert(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0).train()
    flags = [part.training for part in model.modules()]
    found = look(model, "attention:0", "attention:-3")
    assert torch.allclose(found["attention:0"].sum(dim=-1), torch.ones(2, 4, 4))
    assert torch.equal(found["attention:0"], found["attention:-3"])
    assert [part.training for part in model.modules()] == flags
    assert all(flags)


def test_projections_of_bert_and_llama() -> None:
    model = bert()
    inner = model.encoder.layer[1].attention.self
    found = look(model, "query:1", "key:1", "value:-2", "hidden:0")
    for name, part in (("query:1", inner.query), ("key:1", inner.key), ("value:-2", inner.value)):
        assert torch.equal(found[name], part(found["hidden:0"]))
    found = look(llama(), "query:0", "key:0", "value:0")
    assert [found[f"{kind}:0"].shape[-1] for kind in ("query", "key", "value")] == [16, 8, 8]


def test_a_fused_projection_is_named() -> None:
    with pytest.raises(FeatureError, match="computes query, key and value in one product \\('c_attn'\\)"):
        look(gpt2(), "query:0")


def test_features_carry_the_gradient() -> None:
    model = bert()
    look(model, "hidden:0")["hidden:0"].sum().backward()
    assert model.encoder.layer[0].output.dense.weight.grad is not None
    assert model.encoder.layer[1].output.dense.weight.grad is None


def test_no_hook_stays_after_a_pass_or_an_error() -> None:
    model = bert()
    look(model, "hidden:0", "attention:0")
    with pytest.raises(RuntimeError, match="stop"), capture(model, ["hidden:0", "attention:0", "pooled"]):
        raise RuntimeError("stop")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_paths_and_maps_of_a_convnet() -> None:
    net, pixels = cnn(), torch.randn(3, 1, 5, 5)
    with capture(net, ["0.1", "0", "map", "pooled"]) as found:
        net(pixels)
    normed = net[0][1](net[0][0](pixels))
    assert torch.equal(found["0.1"], normed)  # not what the activation made of it in place
    assert torch.equal(found["map"], normed.relu())
    assert torch.equal(found["0"], found["map"])
    assert torch.allclose(found["pooled"], normed.relu().mean(dim=(2, 3)))


def test_a_path_safe_from_work_in_place_still_has_its_gradient() -> None:
    net = cnn()
    with capture(net, ["0.1"]) as found:
        said = net(torch.randn(3, 1, 5, 5))
    (found["0.1"].square().sum() + said.sum()).backward()
    assert net[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0.7", "'0' has no part '7'. Did you mean '0.2'"),
        ("features.1", "the model has no part 'features'"),
        ("hidden:0", "has no single stack of layers"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_near(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"There is no feature|no single stack") as caught, capture(cnn(), [name]):
        pass
    assert isinstance(caught.value, AttarError)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["hidden:3", "hidden:-4", "hidden:x", "attention:9", "hidden:", "hidden:²"])
def test_layers_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(FeatureError, match="the model has the layers 0 to 2"), capture(bert(), [name]):
        pass


def test_attention_that_shows_no_probabilities_is_refused() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert stack(model) is model.layers
    with (
        pytest.raises(FeatureError, match=r"gave no 'attention:0'.*attn_implementation="),
        capture(model.train(), ["attention:0"]),
    ):
        model(torch.zeros(1, 3, 8))


def test_a_map_that_is_nowhere_and_a_head_that_is_nowhere_are_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(FeatureError, match="gave no 'map'"), capture(flat, ["map"]):
        flat(torch.zeros(1, 2))
    with pytest.raises(FeatureError, match="has no linear layer"), capture(torch.nn.ReLU(), ["pooled"]):
        pass


def test_a_part_that_the_pass_leaves_out_is_refused() -> None:
    model = bert()
    with pytest.raises(FeatureError, match="does not go through that part"), capture(model, ["encoder"]):
        model.embeddings(IDS)


def test_rows_of_texts_have_features_and_mask(text_student: Any, texts: Any) -> None:
    task = TextClassification()
    batch = task.collate(text_student, texts)
    rows = rows_with_features(task, text_student, batch, ["hidden:-1", "pooled"])
    assert torch.equal(rows.dense(), task.rows(text_student, batch).dense())
    assert rows.features["mask"].dtype == torch.bool
    assert torch.equal(rows.features["mask"], batch.inputs["attention_mask"].bool())
    head = text_student.module.classifier
    assert torch.allclose(head(rows.features["pooled"]), rows.dense(), atol=1e-6)
    assert rows_with_features(task, text_student, batch, []).features == {}


def test_pooled_of_a_head_that_reads_every_token_is_the_last_that_is_no_padding(texts: Any, tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    words = tokenizer("bpe")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": len(words)}
    config = LlamaConfig(num_attention_heads=4, num_labels=2, pad_token_id=words.pad_token_id, **sizes)
    module = LlamaForSequenceClassification(config).eval()
    model: Any = SimpleNamespace(module=module, processor=words, facts={"max_length": 32}, kind="transformers")
    task = TextClassification()
    rows = rows_with_features(task, model, task.collate(model, texts), ["pooled"])
    assert rows.features["pooled"].shape == (8, 16)
    assert torch.allclose(module.score(rows.features["pooled"]), rows.dense(), atol=1e-6)


def test_rows_of_images_have_no_mask(net: Any, images: Any) -> None:
    model, task = net(net="cnn", widths=(4, 6)), ImageClassification()
    rows = rows_with_features(task, model, task.collate(model, images(6)), ["map", "pooled"])
    assert sorted(rows.features) == ["map", "pooled"]
    assert rows.features["pooled"].shape == (6, 6)
    assert rows.features["map"].ndim == 4


def test_joined_fills_time_with_zeros_at_the_end() -> None:
    first = {"mask": torch.ones(1, 2, dtype=torch.bool), "a": torch.ones(1, 2, 2, 2), "p": torch.ones(1, 3)}
    second = {"mask": torch.ones(2, 3, dtype=torch.bool), "a": torch.ones(2, 2, 3, 3), "p": torch.ones(2, 3)}
    both = joined([first, second])
    assert both["mask"].tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert both["a"].shape == (3, 2, 3, 3)
    assert both["a"][0].sum() == 8
    assert both["a"][0, :, 2].sum() == both["a"][0, :, :, 2].sum() == 0
    assert torch.equal(both["p"], torch.ones(3, 3))
    assert joined([]) == {}
