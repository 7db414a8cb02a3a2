from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attar.compressors.activations import Statistics, Want, collect, layer_by_layer, tokens
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

TEXTS, WRITES = TextClassification(), TextGeneration()


def _inputs(model: Model, name: str, task: Any, examples: Any) -> torch.Tensor:
    """Return what goes into a module, one example at a time, so that nothing is padded."""
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        for place in range(len(examples)):
            task.rows(model, task.collate(model, examples.take(np.array([place]))))
    handle.remove()
    return torch.cat([one if one.ndim == 2 else one[None] for one in seen])


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.1.attention.self.key", "bert.encoder.layer.0.output.dense", "classifier"]
)
def test_padding_of_a_classifier_is_left_out(text_student: Model, texts: Any, name: str) -> None:
    found = collect(text_student, TEXTS, texts, {"hessian"})[name]
    rows = _inputs(text_student, name, TEXTS, texts)
    assert found.count == len(rows)
    torch.testing.assert_close(found.square, rows.square().mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_abs, rows.abs().mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.hessian, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


def test_a_task_that_writes_counts_what_its_rows_depend_on(writer: Callable[..., Model], pairs: Any) -> None:
    model, name = writer(), "model.layers.1.mlp.down_proj"
    module: Any = model.module
    found = collect(model, WRITES, pairs)[name]
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for place in range(len(pairs)):
        batch = WRITES.collate(model, pairs.take(np.array([place])))
        with torch.no_grad():
            module.base_model(input_ids=batch.inputs["input_ids"][:, :-1])  # the end is never read
    handle.remove()
    rows = torch.cat(seen)
    assert found.count == len(rows)
    assert found.hessian is None
    torch.testing.assert_close(found.square, rows.square().mean(0), rtol=1e-4, atol=1e-5)


def test_label_words_are_read_like_any_classifier(label_reader: Callable[..., Model], texts: Any) -> None:
    model = label_reader()
    found = collect(model, TEXTS, texts, names=["lm.model.layers.0.self_attn.q_proj"])
    rows = _inputs(model, "lm.model.layers.0.self_attn.q_proj", TEXTS, texts)
    assert list(found) == ["lm.model.layers.0.self_attn.q_proj"]
    torch.testing.assert_close(found.popitem()[1].square, rows.square().mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "convolution",
    [
        torch.nn.Conv2d(1, 3, 3, padding=1, stride=2),
        torch.nn.Conv2d(1, 3, 3, padding="same", dilation=2, padding_mode="reflect"),
    ],
)
def test_a_convolution_is_a_product_of_the_unfolded_image(
    convolution: torch.nn.Conv2d, images: Callable[..., Any]
) -> None:
    module = torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.LazyLinear(2))
    model = Model(module, "net", None, {"mean": 0.5, "std": 0.5})
    batch = ImageClassification().collate(model, images(6))
    with torch.no_grad():
        given = convolution(batch.inputs["pixel_values"] + module(batch.inputs["pixel_values"]).sum() * 0)
    found = collect(model, ImageClassification(), images(6), {"hessian"})["0"]
    weight = convolution.weight.flatten(1)
    bare = given - convolution.bias[None, :, None, None]  # type: ignore[index]
    assert found.hessian is not None
    got = torch.einsum("oi,ij,oj->o", weight, found.hessian, weight)
    torch.testing.assert_close(got, bare.square().mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert found.count == given[:, 0].numel()


def test_groups_of_a_convolution_have_squares_and_no_hessian(images: Callable[..., Any]) -> None:
    grouped = torch.nn.Conv2d(2, 4, 3, groups=2)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), grouped, torch.nn.Flatten(), torch.nn.LazyLinear(2))
    model = Model(module, "net", None, {"mean": 0.5, "std": 0.5})
    with torch.no_grad():
        module(torch.zeros(1, 1, 8, 8))
    found = collect(model, ImageClassification(), images(2), {"hessian"})
    assert found["1"].square.shape == (2 * 9,)
    assert found["1"].hessian is None
    assert found["0"].hessian is not None


def test_layers_see_what_was_done_to_those_before(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    want: list[Want] = ["hessian"]
    still = {name: one for _, _, found in layer_by_layer(model, WRITES, pairs, want) for name, one in found.items()}
    plain = collect(model, WRITES, pairs, want)
    assert still.keys() == plain.keys()
    for name, one in still.items():
        assert one.count == plain[name].count
        torch.testing.assert_close(one.hessian, plain[name].hessian, rtol=1e-4, atol=1e-5)
    for prefix, layer, found in layer_by_layer(model, WRITES, pairs, want):
        now = collect(model, WRITES, pairs, want, list(found))
        for name, one in found.items():
            assert name.startswith(prefix)
            torch.testing.assert_close(one.hessian, now[name].hessian, rtol=1e-4, atol=1e-5)
        for parameter in layer.parameters():
            parameter.data.mul_(0.5)


def test_layers_of_a_classifier_are_run_under_their_masks(text_student: Model, texts: Any) -> None:
    still = {n: one for _, _, found in layer_by_layer(text_student, TEXTS, texts) for n, one in found.items()}
    plain = collect(text_student, TEXTS, texts, names=list(still))
    assert len(still) == 12
    for name, one in still.items():
        torch.testing.assert_close(one.square, plain[name].square, rtol=1e-4, atol=1e-5)


def test_a_cache_of_keys_does_not_grow_between_runs(texts: Any, tokenizer: Callable[[str], Any]) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    words = tokenizer("bpe")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=len(words), pad_token_id=0, initializer_range=0.3, use_cache=True, **sizes)
    module = LlamaForSequenceClassification(config).eval()
    model = Model(module, "transformers", words, {"max_length": 32, "labels": ["a", "b"], "shape": []})
    still = {n: one for _, _, found in layer_by_layer(model, TEXTS, texts) for n, one in found.items()}
    plain = collect(model, TEXTS, texts, names=list(still))
    for name, one in still.items():
        torch.testing.assert_close(one.square, plain[name].square, rtol=1e-4, atol=1e-5)


def test_scaled_statistics_are_those_of_scaled_inputs() -> None:
    rows, by = torch.randn(40, 3), torch.tensor([2.0, 0.5, 3.0])

    def of(x: torch.Tensor) -> Statistics:
        return Statistics(len(x), x.square().mean(0), x.abs().mean(0), x.T @ x / len(x))

    got, wanted = of(rows).scaled(by), of(rows * by)
    torch.testing.assert_close(got.square, wanted.square)
    torch.testing.assert_close(got.mean_abs, wanted.mean_abs)
    torch.testing.assert_close(got.hessian, wanted.hessian)


def test_the_model_is_left_as_it_was(text_student: Model, texts: Any) -> None:
    text_student.module.train()
    with torch.enable_grad():
        for _ in layer_by_layer(text_student, TEXTS, texts):
            assert torch.is_grad_enabled()
    assert text_student.module.training
    assert not any(part._forward_pre_hooks for part in text_student.module.modules())


def test_nothing_to_read_is_refused(writer: Callable[..., Model], texts: Any) -> None:
    with pytest.raises(AttarError, match="target text"):
        collect(writer(), WRITES, texts)
    with pytest.raises(AttarError, match="target text"):
        list(layer_by_layer(writer(), WRITES, texts))


def test_an_unknown_name_is_refused(text_student: Model, texts: Any) -> None:
    with pytest.raises(AttarError, match=r"'bert\.pooler' is none"):
        collect(text_student, TEXTS, texts, names=["bert.pooler"])


def test_tokens_of_an_example_without_rows_do_not_count(writer: Callable[..., Model], pairs: Any) -> None:
    some = pairs.with_targets(["", *pairs.targets[1:]])
    mask = tokens(WRITES.collate(writer(), some))
    assert mask is not None
    assert mask.sum(1)[0] == 0
    assert (mask.sum(1)[1:] > 0).all()
