from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.compressors.quantize.grid import grids_of
from attar.compressors.quantize.mixed import Judge
from attar.compressors.quantize.weights import Weights
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

LLAMA = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "head_dim": 64},
    **{"num_hidden_layers": 30, "model_type": "llama"},
}
DOWN = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")


def _step(**settings: Any) -> Weights:
    return Weights(Weights.Settings(**{"group": 16, **settings}))


def _writes(examples: Any) -> Calibration:
    return Calibration(TextGeneration(), examples, [])


@pytest.fixture(params=["causal", "label_words", "transformers"])
def case(
    request: pytest.FixtureRequest,
    writer: Callable[..., Model],
    label_reader: Callable[..., Model],
    text_student: Model,
    texts: Any,
    pairs: Any,
) -> tuple[Model, Calibration]:
    if request.param == "causal":
        return writer(), _writes(pairs)
    return (label_reader() if request.param == "label_words" else text_student), Calibration(
        TextClassification(), texts, []
    )


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "awq+gptq"])
def test_weights_lie_on_grids_that_are_saved_with_them(
    case: tuple[Model, Calibration], method: str, tmp_path: Path
) -> None:
    model, calibration = case
    before = copy.deepcopy(model.module)
    model, plan = _step(method=method).apply(model, calibration)
    facts = model.facts["quantized"]
    linear = [n for n, p in model.module.named_modules() if isinstance(p, torch.nn.Linear) and ".layer" in n]
    table = [
        n for n, p in model.module.named_parameters() if n.endswith(("embed_tokens.weight", "word_embeddings.weight"))
    ]
    assert set(facts) == {f"{name}.weight" for name in linear} | set(table)
    assert len(table) == 1
    for name, grid in grids_of(model).items():
        weight = model.module.get_parameter(name).data
        assert torch.equal(grid.round(weight), weight)
        assert facts[name]["bits"] == (8 if name in table else 4)
        assert not torch.equal(before.get_parameter(name), weight)
    assert plan.step == "weights"
    assert plan.before.keys() == plan.after.keys()
    assert plan.after["bytes"] < 0.6 * plan.before["bytes"]
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    assert loaded.facts["quantized"] == facts
    for name, grid in grids_of(loaded).items():
        weight = loaded.module.get_parameter(name).data
        assert torch.equal(weight, model.module.get_parameter(name).data)
        assert torch.equal(grid.round(weight), weight)


def test_it_loads_in_plain_transformers(writer: Callable[..., Model], pairs: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = _step(method="awq").apply(writer(), _writes(pairs))
    folder.save(model, tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        assert torch.equal(plain, model.module(ids).logits)


def test_a_tied_head_is_the_embeddings(writer: Callable[..., Model], pairs: Any) -> None:
    model, _ = _step(method="rtn").apply(writer(), _writes(pairs))
    module: Any = model.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert [name for name in model.facts["quantized"] if "layers" not in name] == ["model.embed_tokens.weight"]


def test_a_head_of_its_own_gets_the_bits_of_the_embeddings(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    module: Any = model.module
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.data.clone())
    module.config.tie_word_embeddings = False
    model, _ = _step(method="rtn", embeddings=8).apply(model, _writes(pairs))
    assert {n for n, f in model.facts["quantized"].items() if f["bits"] == 8} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }


def test_embeddings_can_stay_float(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    before = model.module.get_parameter("model.embed_tokens.weight").data.clone()
    model, _ = _step(method="rtn", embeddings=None).apply(model, _writes(pairs))
    assert "model.embed_tokens.weight" not in model.facts["quantized"]
    assert torch.equal(model.module.get_parameter("model.embed_tokens.weight").data, before)


@pytest.mark.parametrize("form", ["q4_0", "q4_1"])
def test_formats_of_llama_cpp_keep_8_bit_embeddings_as_q8_0(
    writer: Callable[..., Model], pairs: Any, form: str
) -> None:
    model, _ = _step(format=form, group=32, keep=DOWN).apply(writer(), _writes(pairs))
    facts = model.facts["quantized"]
    assert facts["model.embed_tokens.weight"] == {"bits": 8, "group": 32, "symmetric": True, "format": "q8_0"}
    own = facts["model.layers.0.mlp.up_proj.weight"]
    assert own == {"bits": 4, "group": 32, "symmetric": form == "q4_0", "format": form}
    assert not any("down_proj" in name for name in facts)
    parts = {name.rpartition(".")[2] for name in model.tensors}
    assert parts == ({"scale"} if form == "q4_0" else {"scale", "minimum"})


def test_gptq_changes_answers_less_than_rounding(writer: Callable[..., Model], pairs: Any) -> None:
    damage = {}
    for method in ("rtn", "gptq", "awq", "awq+gptq"):
        model = writer()
        judge = Judge(model, TextGeneration(), pairs)
        _step(method=method, bits=3, embeddings=None).apply(model, _writes(pairs))
        damage[method] = judge.damage()
    assert damage["gptq"] < 0.8 * damage["rtn"]
    assert damage["awq+gptq"] < 0.8 * damage["rtn"]
    assert damage["awq"] < damage["rtn"]


def test_rounding_to_the_nearest_reads_no_example(text_student: Model, texts: Any) -> None:
    none = texts.take(np.array([], np.int64))
    model, _ = _step(method="rtn").apply(text_student, Calibration(TextClassification(), none, []))
    assert model.facts["quantized"]


@pytest.mark.parametrize("method", ["gptq", "awq+gptq"])
def test_one_example_is_enough(writer: Callable[..., Model], pairs: Any, method: str) -> None:
    model, _ = _step(method=method).apply(writer(), _writes(pairs.take(np.array([0]))))
    assert all(p.isfinite().all() for p in model.module.parameters())


def test_bits_of_a_parameter_count_all_that_is_stored(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    inside = sum(p.numel() for n, p in model.module.named_parameters() if "layers" in n and p.ndim == 2)
    table = model.module.get_parameter("model.embed_tokens.weight").numel()
    every = sum(p.numel() for p in model.module.parameters())
    _, plan = _step(method="rtn", bits=4, symmetric=True).apply(model, _writes(pairs))
    bits = inside * (4 + 16 / 16) + table * (8 + 16 / 16) + 32 * (every - inside - table)
    assert plan.before["bits_per_parameter"] == 32
    assert plan.after["bits_per_parameter"] == pytest.approx(bits / every, abs=1e-3)
    assert plan.after["bytes"] == pytest.approx(bits / 8, abs=1)


def test_whole_rows_can_share_a_scale(writer: Callable[..., Model], pairs: Any) -> None:
    model, _ = _step(method="gptq", group="row").apply(writer(), _writes(pairs))
    assert model.facts["quantized"]["model.layers.0.mlp.down_proj.weight"]["group"] == 48
    assert model.tensors["model.layers.0.mlp.down_proj.weight.scale"].shape == (32, 1)


def test_weights_that_are_no_numbers_are_refused(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    model.module.get_parameter("model.layers.1.mlp.up_proj.weight").data[0, 0] = float("nan")
    with pytest.raises(AttarError, match="NaN or infinity"):
        _step().apply(model, _writes(pairs))


def test_a_quantized_model_is_refused(writer: Callable[..., Model], pairs: Any) -> None:
    model, _ = _step(method="rtn").apply(writer(), _writes(pairs))
    with pytest.raises(AttarError, match="quantized already"):
        _step(method="rtn").apply(model, _writes(pairs))


def test_groups_that_do_not_fill_a_row_are_refused_before_any_work(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    before = copy.deepcopy(model.module.state_dict())
    with pytest.raises(AttarError, match="Groups of 32 weights do not fill a row of 48"):
        _step(group=32).apply(model, _writes(pairs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert "quantized" not in model.facts


def test_other_models_are_refused(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    with pytest.raises(AttarError, match="this one is net"):
        _step().apply(net(), Calibration(TextClassification(), images(2), []))


def test_an_unknown_module_to_keep_is_refused(writer: Callable[..., Model], pairs: Any) -> None:
    with pytest.raises(AttarError, match="lm_hed"):
        _step(keep=("lm_hed",)).apply(writer(), _writes(pairs))


def test_what_is_kept_does_not_change(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    before = copy.deepcopy(model.module)
    _step(method="gptq", keep=("model.layers.0",)).apply(model, _writes(pairs))
    for name, parameter in model.module.named_parameters():
        changed = not torch.equal(parameter, before.get_parameter(name))
        assert changed == (name in model.facts["quantized"])
        assert not (changed and "layers.0" in name)


@pytest.mark.parametrize("to", ["hf", "onnx"])
def test_what_a_bundle_can_hold_is_legal(to: str) -> None:
    after = _step(group=32).legal(LLAMA, to)
    assert after == {**LLAMA, "quantized": True}
    with pytest.raises(AttarError, match="quantized already"):
        _step(group=32).legal(after, to)


@pytest.mark.parametrize(
    ("settings", "to", "said"),
    [
        ({"format": "q4_0", "group": 32}, "onnx", "Export to hf or gguf"),
        ({"group": 32}, "gguf", "Export to hf or onnx"),
        ({"group": 32}, "openvino", "Export to hf or onnx"),
        ({"group": 32, "bits": 3}, "onnx", "2, 4 or 8 bits, got 3"),
        ({"group": 32, "bits": {"mean": 5, "choices": [3, 4]}}, "onnx", "2, 4 or 8 bits, got 3"),
        ({"group": "row"}, "onnx", "got row"),
        ({"group": 48}, "onnx", "got 48"),
        ({"group": 128}, "hf", "Groups of 128 weights do not fill a row of 576"),
    ],
)
def test_what_a_bundle_cannot_hold_is_refused_before_any_work(settings: dict[str, Any], to: str, said: str) -> None:
    with pytest.raises(AttarError, match=said):
        _step(**settings).legal(LLAMA, to)


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 1},
        {"bits": 9},
        {"group": 8},
        {"format": "q4_0", "group": 64},
        {"format": "q4_0", "bits": 3, "group": 32},
        {"format": "q8_0", "bits": 4, "group": 32},
        {"floor": 0},
        {"bits": {"mean": 5, "choices": [4, 9]}},
        {"bits": {"mean": 5, "choices": [4, 4]}},
        {"bits": {"mean": 5, "choices": [4]}},
    ],
)
def test_settings_that_no_grid_has_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Weights.Settings(**settings)
