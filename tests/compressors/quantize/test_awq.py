from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attar.compressors.activations import Statistics, Want, layer_by_layer
from attar.compressors.quantize.awq import (
    ALPHAS,
    FOLDS,
    Fold,
    _parts,
    apply_scale,
    best_scale,
    exact_folds,
    scale_layer,
)
from attar.compressors.quantize.grid import Scheme, fit
from attar.compressors.quantize.round import counted, output_error, round_to_nearest
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

SCHEME = Scheme(3, 16)
HESSIAN: list[Want] = ["hessian"]


def _folded(model: Model, task: Any, examples: Any) -> list[Fold]:
    folds = exact_folds(model, Calibration(task, examples, []))
    for prefix, layer, found in layer_by_layer(model, task, examples, HESSIAN):
        inside = {name.removeprefix(f"{prefix}."): one for name, one in found.items()}
        scale_layer(layer, folds, inside, dict.fromkeys(inside, SCHEME))
    return folds


def test_folding_leaves_a_llama_what_it_computes(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    before = copy.deepcopy(model.module)
    folds = _folded(model, TextGeneration(), pairs)
    assert folds == list(FOLDS[:4])
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(model.module(ids).logits, before(ids).logits, rtol=1e-5, atol=1e-5)
    moved = [n for n, p in before.named_parameters() if not torch.equal(p, model.module.get_parameter(n))]
    assert any("down_proj" in name for name in moved)
    assert any("input_layernorm" in name for name in moved)


def test_folding_leaves_a_bert_what_it_computes(text_student: Model, texts: Any) -> None:
    before = copy.deepcopy(text_student.module)
    for part in (before, text_student.module):
        for name, parameter in part.named_parameters():
            if name.endswith("value.bias"):
                parameter.data += torch.linspace(-1, 1, len(parameter))
    assert [fold.before for fold in _folded(text_student, TextClassification(), texts)] == ["attention.self.value"]
    batch = TextClassification().collate(text_student, texts)
    with torch.no_grad():
        wanted, got = (one(**batch.inputs).logits for one in (before, text_student.module))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_norm_that_adds_1_to_its_weight_is_left_alone(texts: Any, tokenizer: Callable[[str], Any]) -> None:
    from transformers import GemmaConfig, GemmaForSequenceClassification

    words = tokenizer("bpe")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = GemmaConfig(vocab_size=len(words), intermediate_size=48, head_dim=8, pad_token_id=0, **sizes)
    module = GemmaForSequenceClassification(config).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name:
            parameter.data += torch.rand_like(parameter)
    model = Model(module, "transformers", words, {"max_length": 32, "labels": ["a", "b"], "shape": []})
    folds = exact_folds(model, Calibration(TextClassification(), texts, []))
    assert [fold.before for fold in folds] == ["self_attn.v_proj", "mlp.up_proj"]


def test_heads_that_share_a_value_share_its_scale(writer: Callable[..., Model]) -> None:
    layer = writer().module.get_submodule("model.layers.0")
    parts = _parts(layer, FOLDS[1])
    assert parts is not None
    assert parts[2:] == (2, 8)  # two heads read each value, heads are 8 wide
    names = ("self_attn.v_proj.weight", "self_attn.o_proj.weight")
    value, output = (layer.get_parameter(name).data.clone() for name in names)
    scale = torch.arange(1.0, 17.0)
    wide = apply_scale(parts, scale)
    assert wide.tolist() == [*range(1, 9), *range(1, 9), *range(9, 17), *range(9, 17)]
    torch.testing.assert_close(layer.get_parameter(names[0]).data, value / scale[:, None])
    torch.testing.assert_close(layer.get_parameter(names[1]).data, output * wide)


def test_widths_that_do_not_meet_are_no_fold() -> None:
    layer = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(4, 6)})})
    assert _parts(layer, FOLDS[3]) is None
    layer["mlp"]["down_proj"] = torch.nn.Linear(9, 4)  # type: ignore[operator]
    assert _parts(layer, FOLDS[3]) is None


def _pair() -> tuple[Any, torch.Tensor, Statistics]:
    """Return a norm and a linear layer, inputs of which two are large, and their statistics."""
    made = torch.Generator().manual_seed(0)
    before, after = torch.nn.LayerNorm(32), torch.nn.Linear(32, 12, bias=False)
    after.weight.data = torch.randn(12, 32, generator=made)
    rows = torch.randn(200, 32, generator=made)
    rows[:, [3, 20]] *= 20
    found = Statistics(200, rows.square().mean(0), rows.abs().mean(0), rows.T @ rows / 200)
    return (before, [after], 1, 32), rows, found


def test_the_best_scale_is_that_of_the_smallest_error_of_the_output() -> None:
    parts, rows, found = _pair()
    weight = parts[1][0].weight.data
    errors = {}
    for alpha in ALPHAS:
        scale = found.mean_abs**alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        grid = fit(weight * scale, SCHEME, counted(found.square / scale**2), search=False)
        lost = (rows / scale) @ (grid.round(weight * scale) - weight * scale).T
        errors[alpha] = float(lost.square().sum(1).mean())
    best = min(errors, key=lambda alpha: errors[alpha])
    wanted = found.mean_abs**best
    got = best_scale(parts, found, [SCHEME])
    torch.testing.assert_close(got, wanted / (wanted.max() * wanted.min()).sqrt())
    assert 0 < best < 1
    assert errors[best] < 0.7 * errors[0.0]


def test_scaled_weights_lose_less_when_rounded() -> None:
    parts, _, found = _pair()
    assert found.hessian is not None
    weight = parts[1][0].weight.data.clone()
    plain = output_error(weight, round_to_nearest(weight, SCHEME, found)[0], found.hessian)
    wide = apply_scale(parts, best_scale(parts, found, [SCHEME]))
    after = found.scaled(1 / wide)
    assert after.hessian is not None
    scaled = parts[1][0].weight.data
    assert output_error(scaled, round_to_nearest(scaled, SCHEME, after)[0], after.hessian) < 0.8 * plain


def test_a_layer_whose_reader_stays_float_is_not_scaled(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    prefix, layer, found = next(iter(layer_by_layer(model, TextGeneration(), pairs, HESSIAN)))
    inside = {name.removeprefix(f"{prefix}."): one for name, one in found.items()}
    before = layer.get_parameter("mlp.up_proj.weight").data.clone()
    schemes = {name: SCHEME for name in inside if name != "mlp.down_proj"}
    scale_layer(layer, [FOLDS[3]], inside, schemes)
    assert torch.equal(layer.get_parameter("mlp.up_proj.weight").data, before)


def test_scales_without_a_hessian_are_a_mistake_of_the_caller() -> None:
    parts, _, found = _pair()
    with pytest.raises(ValueError, match="Hessians"):
        best_scale(parts, Statistics(found.count, found.square, found.mean_abs), [SCHEME])
