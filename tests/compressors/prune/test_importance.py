"""A unit's importance is what a plain, slow computation says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.compressors.prune.families import calibration, inputs, model_of

from attar.compressors.activations import BATCH
from attar.compressors.prune.anatomy import Group, attention_groups, hidden_group, mlp_groups
from attar.compressors.prune.importance import scores_of
from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.tasks.text_classification import TextClassification


def _groups(network: Any) -> list[Group]:
    return [*mlp_groups(network), *attention_groups(network), hidden_group(network)]


def _scores(kind: Any, name: str, model: Model) -> list[torch.Tensor]:
    given = calibration(name)
    return scores_of(kind, model, _groups(model.module), given, given.examples)


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_activation_is_the_mean_magnitude_of_what_is_read(name: str) -> None:
    model = model_of(name)
    network: Any = model.module
    found, groups = _scores("activation", name, model), _groups(network)
    seen: dict[str, list[torch.Tensor]] = {}

    def hook(place: str) -> Callable[..., None]:
        return lambda _, given: seen.setdefault(place, []).append(given[0].flatten(0, -2).abs())

    handles = [
        network.get_submodule(read).register_forward_pre_hook(hook(read)) for group in groups for read in group.reads
    ]
    with torch.no_grad():
        for key in range(6):
            network(**inputs(name, key))
    for handle in handles:
        handle.remove()
    for group, scores in zip(groups, found, strict=True):
        block = network.get_submodule(group.reads[0]).in_features // group.units
        plain = torch.zeros(group.units)
        for read in group.reads:
            mean = torch.cat(seen[read]).mean(0)
            for unit in range(group.units):
                plain[unit] += mean[unit * block : (unit + 1) * block].sum()
        assert torch.allclose(scores, plain, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "bert", "vit", "t5"])
def test_taylor_is_weight_times_gradient_of_all_that_goes(name: str) -> None:
    model = model_of(name)
    network: Any = model.module
    found, given = _scores("taylor", name, model), calibration(name)
    groups = _groups(network)
    weights = dict(network.named_parameters(remove_duplicate=False))
    plain = [torch.zeros(group.units) for group in groups]
    for first in range(0, 6, BATCH):
        some = given.examples.take(given.examples.keys[first : first + BATCH])
        network.zero_grad()
        assert given.loss is not None
        given.loss(model, some).backward()
        for group, total in zip(groups, plain, strict=True):
            seen = set()
            for cut in group.cuts:
                weight = weights[cut.name]
                if (id(weight), cut.dim) in seen:
                    continue
                seen.add((id(weight), cut.dim))
                rows = (weight * weight.grad).abs().detach().movedim(cut.dim, 0).flatten(1 if weight.ndim > 1 else 0)
                block, share = len(rows) // cut.units, group.units // cut.units
                for unit in range(group.units):
                    own = unit // share
                    total[unit] += rows[own * block : (own + 1) * block].sum() / share * len(some) / 6
    for scores, wanted in zip(found, plain, strict=True):
        assert torch.allclose(scores, wanted, rtol=1e-3, atol=1e-6)
        assert scores.std() > 0


def test_magnitude_is_the_norm_of_all_that_goes() -> None:
    model = model_of("qwen2")
    weights = dict(model.module.named_parameters())
    scores = _scores("magnitude", "qwen2", model)
    layer = "model.layers.0"
    parts = [weights[f"{layer}.mlp.{name}_proj.weight"].detach() for name in ("gate", "up", "down")]
    rows = torch.cat([parts[0], parts[1], parts[2].T], dim=1)
    assert torch.allclose(scores[0], rows.norm(dim=1), rtol=1e-4)
    q, k, v, o = (weights[f"{layer}.self_attn.{name}_proj.weight"].detach() for name in "qkvo")
    bias = [weights[f"{layer}.self_attn.{name}_proj.bias"].detach() for name in "qkv"]
    for head in range(4):
        own, shared = slice(head * 16, head * 16 + 16), slice(head // 2 * 16, head // 2 * 16 + 16)
        square = q[own].square().sum() + bias[0][own].square().sum() + o[:, own].square().sum()
        for part in (k, v, bias[1], bias[2]):  # two query heads share what is their KV head's
            square = square + part[shared].square().sum() / 2
        assert float(scores[2][head]) == pytest.approx(float(square) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("kind", ["activation", "taylor", "magnitude"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = model_of("llama")
    model.module.train()
    model.module.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    _scores(kind, "llama", model)
    assert model.module.training
    assert [name for name, part in model.module.named_parameters() if not part.requires_grad] == [
        "model.layers.0.mlp.up_proj.weight"
    ]
    assert all(part.grad is None for part in model.module.parameters())
    assert not any(part._forward_pre_hooks for part in model.module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_taylor_needs_a_loss_that_says_something() -> None:
    model = model_of("llama")
    groups, given = mlp_groups(model.module), calibration("llama")
    with pytest.raises(AttarError, match="needs the loss that trains the model"):
        scores_of("taylor", model, groups, replace(given, loss=None), given.examples)
    mute = replace(given, loss=lambda one, some: next(one.module.parameters()).sum() * float("nan"))
    with pytest.raises(AttarError, match=r"no calibration example has a loss with a gradient.*data\.gold"):
        scores_of("taylor", model, groups, mute, given.examples)


def test_padding_has_no_say(text_student: Model, texts: Examples) -> None:
    groups = mlp_groups(text_student.module)
    given = Calibration(TextClassification(), texts, [])
    together = scores_of("activation", text_student, groups, given, texts)
    sums, count = [torch.zeros(group.units) for group in groups], 0
    for place in range(len(texts)):
        one = texts.take(texts.labels[:1] * 0 + place)
        tokens = int(TextClassification().length(text_student, one)[0])
        for total, scores in zip(sums, scores_of("activation", text_student, groups, given, one), strict=True):
            total += scores * tokens
        count += tokens
    assert all(torch.allclose(a, b / count, rtol=1e-4) for a, b in zip(together, sums, strict=True))
