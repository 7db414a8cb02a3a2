"""A narrower model says what the whole one says without the removed parts, and plain transformers loads it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compressors.prune.families import MODELS, calibration, inputs, model_of, said

from attar.compressors.prune.anatomy import Group, attention_groups, hidden_group, mlp_groups
from attar.compressors.prune.slicing import spread
from attar.compressors.prune.width import Width
from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.text_classification import TextClassification

GROUPED = ("llama", "mistral", "qwen2", "qwen3")
OWN_WIDTH = (*GROUPED, "llama_bias", "vit", "t5", "t5_gated")
HIDDEN = (*OWN_WIDTH[:-1], "bert", "roberta", "distilbert", "bart")


def _step(**settings: Any) -> Width:
    return Width(Width.Settings(**{"round_to": 8, **settings}))


def _narrow(name: str, model: Model, **settings: Any) -> tuple[Model, Any]:
    return _step(**settings).apply(model, calibration(name))


def _zeroed(network: Any, groups: list[Group], kept: list[torch.Tensor]) -> Any:
    """Return a copy whose layers read nothing of the removed units."""
    other = copy.deepcopy(network)
    for group, stays in zip(groups, kept, strict=True):
        for read in group.reads:
            weight = other.get_submodule(read).weight
            gone = torch.ones(weight.shape[1], dtype=torch.bool)
            gone[spread(stays, weight.shape[1] // group.units)] = False
            weight.data[:, gone] = 0
    return other


def _kept(before: Any, after: Any, groups: list[Group]) -> list[torch.Tensor]:
    """Return which units of each group are left, by looking for them in the layer that reads them."""
    found = []
    for group in groups:
        old, new = (network.get_submodule(group.reads[0]).weight for network in (before, after))
        block = old.shape[1] // group.units
        units = old.unflatten(1, (group.units, block))
        same = [
            next(i for i in range(group.units) if torch.equal(units[:, i], new[:, place : place + block]))
            for place in range(0, new.shape[1], block)
        ]
        found.append(torch.tensor(same))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_without_mlp_channels_it_says_what_it_says_with_them_at_zero(name: str) -> None:
    model = model_of(name)
    whole, groups = model.module, mlp_groups(model.module)
    small, _ = _narrow(name, model, mlp=0.5, repair=False)
    kept = _kept(whole, small.module, groups)
    assert all(
        len(one) == group.units // 2 and bool((one.diff() > 0).all()) for one, group in zip(kept, groups, strict=True)
    )
    assert torch.allclose(said(name, small.module), said(name, _zeroed(whole, groups, kept)), atol=1e-4)


@pytest.mark.parametrize("name", OWN_WIDTH)
def test_without_heads_it_says_what_it_says_with_them_at_zero(name: str) -> None:
    model = model_of(name)
    whole, groups = model.module, attention_groups(model.module)
    small, plan = _narrow(name, model, heads=0.5, repair=False)
    kept = _kept(whole, small.module, groups)
    assert all(len(one) == 2 for one in kept)
    if name in GROUPED:  # one query head of each KV head
        assert all((one // 2).tolist() == [0, 1] for one in kept)
    assert torch.allclose(said(name, small.module), said(name, _zeroed(whole, groups, kept)), atol=1e-4)
    assert plan.after["parameters"] == sum(part.numel() for part in small.module.parameters())


@pytest.mark.parametrize("name", GROUPED)
def test_a_kv_head_goes_with_its_query_heads(name: str) -> None:
    model = model_of(name)
    whole, groups = model.module, attention_groups(model.module)
    small, _ = _narrow(name, model, kv_heads=0.5, repair=False)
    kept = _kept(whole, small.module, groups)
    assert all(one.tolist() in ([0, 1], [2, 3]) for one in kept)
    assert torch.allclose(said(name, small.module), said(name, _zeroed(whole, groups, kept)), atol=1e-4)
    assert (small.module.config.num_attention_heads, small.module.config.num_key_value_heads) == (2, 1)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "t5"])
def test_without_hidden_channels_it_says_what_it_says_with_them_at_zero(name: str) -> None:
    """Only where norms have no mean: a LayerNorm spreads a constant into channels that carry nothing."""
    model = model_of(name)
    whole, group = copy.deepcopy(model.module), hidden_group(model.module)
    small, _ = _narrow(name, model, hidden=0.5, repair=False)
    width, names = small.module.get_input_embeddings().weight, whole.get_input_embeddings().weight
    kept = torch.tensor([next(i for i in range(64) if torch.equal(names[:, i], column)) for column in width.T])
    gone = torch.ones(64, dtype=torch.bool)
    gone[kept] = False
    for cut in group.cuts:
        part = whole.get_parameter(cut.name) if cut.name in dict(whole.named_parameters()) else None
        if part is not None:
            part.data.movedim(cut.dim, 0)[gone] = 0
    assert torch.allclose(said(name, small.module), said(name, whole), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("importance", ["activation", "magnitude", "taylor"])
def test_all_at_once_loads_in_plain_transformers(name: str, importance: str, tmp_path: Path) -> None:
    import transformers

    asked: dict[str, Any] = {"mlp": 0.25, "importance": importance}
    if name in OWN_WIDTH:
        asked |= {"heads": 0.5}
    if name in HIDDEN:
        asked |= {"hidden": 0.5}
    model = model_of(name)
    wanted = _step(**asked).legal(model.module.config.to_dict(), "hf")
    small, plan = _narrow(name, model, **asked)
    small.module.save_pretrained(tmp_path)
    plain, loaded = getattr(transformers, MODELS[name][1]).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(said(name, plain), said(name, small.module))
    assert torch.isfinite(said(name, plain)).all()
    left = {field: getattr(plain.config, field) for field in plan.after if field != "parameters"}
    assert left == {field: wanted[field] for field in left}
    assert all(plan.after[field] < plan.before[field] for field in plan.after)


@pytest.mark.parametrize("name", ["llama", "qwen2", "t5_gated", "bart"])
def test_tied_weights_stay_tied_and_gradient_flows(name: str) -> None:
    asked = {"mlp": 0.5, **({"hidden": 0.5} if name in HIDDEN else {})}
    small, _ = _narrow(name, model_of(name), **asked)
    network = small.module
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    network(**inputs(name)).logits.square().mean().backward()
    assert all(part.grad is not None and bool(part.grad.any()) for part in network.parameters() if part.requires_grad)


@pytest.mark.parametrize("name", ["llama", "qwen3", "t5", "bart", "marian"])
def test_it_still_generates_with_a_cache(name: str) -> None:
    asked = {"mlp": 0.5, **({"heads": 0.5} if name in OWN_WIDTH else {})}
    small, _ = _narrow(name, model_of(name), **asked)
    given = {"input_ids": inputs(name)["input_ids"]}
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "num_beams": 1}
    cached = small.module.generate(**given, **options, use_cache=True)
    assert torch.equal(cached, small.module.generate(**given, **options, use_cache=False))


@pytest.mark.parametrize("name", ["llama", "mistral", "t5_gated"])
def test_repair_gives_back_what_twins_of_kept_channels_gave(name: str) -> None:
    model = model_of(name)
    for group in mlp_groups(model.module):
        *gates, up, down = (model.module.get_parameter(cut.name).data for cut in group.cuts)
        for gate in gates:
            gate[48:] = gate[:48]
        up[48:] = 0.01 * up[:48]  # the twin of each channel gives a hundredth, and is read a hundred times as much
        down[:, 48:] *= 100
    whole = said(name, model.module)
    far = [
        float(
            (said(name, _narrow(name, copy.deepcopy(model), mlp=0.5, repair=repair)[0].module) - whole).square().mean()
        )
        for repair in (True, False)
    ]
    assert far[0] < far[1] / 10


def test_a_reader_of_label_words_is_narrowed_inside(
    label_reader: Callable[..., Model], texts: Examples, tmp_path: Path
) -> None:
    model = label_reader()
    task = TextClassification()
    small, _ = Width(Width.Settings(mlp=0.5, kv_heads=0.5, hidden=0.5)).apply(model, Calibration(task, texts, []))
    assert small.module.config.hidden_size == 16
    assert small.module.config.num_attention_heads == 2
    folder.save(small, tmp_path)
    again = folder.load(tmp_path)
    with torch.no_grad():
        batch = task.collate(small, texts)
        assert torch.equal(task.rows(again, batch).dense(), task.rows(small, batch).dense())


def test_mode_precision_and_frozen_weights_stay() -> None:
    model = model_of("llama")
    model.module.to(torch.bfloat16).train()
    model.module.model.layers[0].mlp.down_proj.weight.requires_grad_(False)
    small, _ = _narrow("llama", model, mlp=0.5)
    network = small.module
    frozen = [name for name, part in network.named_parameters() if not part.requires_grad]
    assert network.training
    assert {part.dtype for part in network.parameters()} == {torch.bfloat16}
    assert frozen == ["model.layers.0.mlp.down_proj.weight"]


def test_the_draw_of_random_numbers_is_not_touched() -> None:
    model = model_of("llama")
    torch.manual_seed(5)
    _narrow("llama", model, mlp=0.5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_of_nothing_or_all_is_refused(share: float) -> None:
    from pydantic import ValidationError

    for name in ("mlp", "heads", "kv_heads", "hidden"):
        with pytest.raises(ValidationError, match=r"greater than 0|less than 1|finite"):
            Width.Settings(**{name: share})


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = model_of("llama")
    model.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.raises(AttarError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN"):
        _narrow("llama", model, mlp=0.5)
    assert all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        for name, tensor in model.module.state_dict().items()
    )


def test_a_quantized_model_is_refused() -> None:
    model = model_of("llama")
    model.facts["quantized"] = {"model.layers.0.mlp.up_proj.weight": {"bits": 4}}
    with pytest.raises(AttarError, match=r"width.*quantized already"):
        _narrow("llama", model, mlp=0.5)


def test_other_kinds_of_models_are_refused() -> None:
    with pytest.raises(AttarError, match=r"kind 'net' cannot be cut.*Llama"):
        _narrow("llama", Model(torch.nn.Linear(2, 2), "net"), mlp=0.5)
    with pytest.raises(AttarError, match="Put the step before it"):
        _narrow("llama", Model(model_of("llama").module, "prompted"), mlp=0.5)


@pytest.mark.parametrize("asked", [{"heads": 0.5}, {"kv_heads": 0.5}, {"heads": 0.25, "hidden": 0.5}])
@pytest.mark.parametrize("name", ["bert", "bart"])
def test_heads_alone_are_refused_where_they_make_the_hidden_size(name: str, asked: dict[str, float]) -> None:
    with pytest.raises(AttarError, match=rf"like {name}"):
        _narrow(name, model_of(name), **asked)
