from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.quantize.aware import StraightThrough, fake_quantized, settle
from attar.compressors.quantize.grid import Grid, grids_of
from attar.compressors.quantize.weights import Weights
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.stages.checkpoint import Progress, load_best, load_checkpoint, save_best, save_checkpoint
from attar.tasks.text_generation import TextGeneration


def _quantized(writer: Callable[..., Model], pairs: Any, **settings: Any) -> Model:
    step = Weights(Weights.Settings(**{"group": 16, "method": "rtn", **settings}))
    return step.apply(writer(), Calibration(TextGeneration(), pairs, []))[0]


def _loss(model: Model, pairs: Any, target: torch.Tensor | None = None) -> torch.Tensor:
    rows = TextGeneration().rows(model, TextGeneration().collate(model, pairs)).dense()
    if target is None:
        return rows
    return torch.nn.functional.kl_div(
        rows.log_softmax(-1), target.log_softmax(-1), reduction="batchmean", log_target=True
    )


def test_the_gradient_by_hand() -> None:
    # grid of 2 bits with step 1 around code 2: values -2, -1, 0, 1; it rounds from -2.5 to 1.5
    grid = Grid(2, torch.tensor([[1.0]]))
    weight = torch.tensor([[-2.6, -2.4, -0.6, 0.2, 1.4, 1.6, 9.0, 0.0]], requires_grad=True)
    rounded: Any = StraightThrough.apply(weight, grid)
    assert rounded.tolist() == [[-2.0, -2.0, -1.0, 0.0, 1.0, 1.0, 1.0, 0.0]]
    (rounded * torch.arange(1.0, 9.0)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 8.0]]


def test_inside_it_computes_what_the_quantized_model_does(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs)
    plain = _loss(model, pairs)
    with fake_quantized(model) as inside:
        assert inside is model
        assert torch.equal(_loss(model, pairs), plain)
        for parameter in model.module.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(1 + 1e-4)  # far less than a step
        assert torch.equal(_loss(model, pairs), plain)
    assert torch.equal(_loss(model, pairs), plain)


def test_names_are_those_of_the_plain_model_outside(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs)
    names, own = list(model.module.state_dict()), dict(model.module.named_parameters())
    with fake_quantized(model):
        assert "model.layers.0.mlp.up_proj.parametrizations.weight.original" in model.module.state_dict()
        assert {id(p) for p in model.module.parameters()} == {id(p) for p in own.values()}
        assert copy.deepcopy(model.module).state_dict().keys() == model.module.state_dict().keys()
    assert list(model.module.state_dict()) == names
    assert all(own[name] is parameter for name, parameter in model.module.named_parameters())
    assert type(model.module.get_submodule("model.layers.0.mlp.up_proj")) is torch.nn.Linear


def test_a_tied_head_stays_tied_and_learns_from_both_ends(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs)
    module: Any = model.module
    with fake_quantized(model):
        _loss(model, pairs).square().mean().backward()
        master = module.model.embed_tokens.parametrizations.weight.original
        assert module.lm_head.parametrizations.weight.original is master
        assert torch.equal(module.lm_head.weight, module.model.embed_tokens.weight)
        assert int((master.grad.abs().sum(1) > 0).sum()) > 200  # as a head, each row has a gradient
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_the_gradient_reaches_all_that_learns(writer: Callable[..., Model], pairs: Any) -> None:
    model, plain = _quantized(writer, pairs), _quantized(writer, pairs)
    target = torch.randn(_loss(model, pairs).shape, generator=torch.Generator().manual_seed(0))
    _loss(plain, pairs, target).backward()
    with fake_quantized(model):
        _loss(model, pairs, target).backward()
    grids = grids_of(model)
    for name, parameter in model.module.named_parameters():
        wanted = plain.module.get_parameter(name).grad
        assert wanted is not None
        assert parameter.grad is not None
        # weights on the grid are never clipped: the gradient is that of the quantized model
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-7, msg=f"{name} {name in grids}")


def test_training_brings_a_quantized_model_nearer_to_the_float_one(writer: Callable[..., Model], pairs: Any) -> None:
    target = _loss(writer(), pairs).detach()
    model = _quantized(writer, pairs, bits=2)
    before = float(_loss(model, pairs, target).detach())
    with fake_quantized(model):
        optimizer = torch.optim.Adam(model.module.parameters(), lr=3e-3)
        for _ in range(30):
            loss = _loss(model, pairs, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        inside = _loss(model, pairs, target)
    assert float(inside.detach()) < 0.6 * before
    assert torch.equal(_loss(model, pairs, target), inside)  # what was trained is what is left
    for name, grid in grids_of(model).items():
        weight = model.module.get_parameter(name).data
        assert torch.equal(grid.round(weight), weight)


def test_checkpoints_are_read_by_another_try(writer: Callable[..., Model], pairs: Any, tmp_path: Path) -> None:
    model, other = _quantized(writer, pairs), _quantized(writer, pairs)
    with fake_quantized(model):
        optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-2)
        _loss(model, pairs).square().mean().backward()
        optimizer.step()
        save_checkpoint(tmp_path, model.module, optimizer, Progress(step=1))
        save_best(tmp_path, model.module)
        kept = copy.deepcopy(model.module.state_dict())
    with fake_quantized(other):
        again = torch.optim.AdamW(other.module.parameters(), lr=1e-2)
        assert load_checkpoint(tmp_path, other.module, again).step == 1
        assert all(torch.equal(tensor, kept[name]) for name, tensor in other.module.state_dict().items())
        load_best(tmp_path, other.module)
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, other.module.get_parameter(name))


def _killed(model: Model) -> None:
    part: Any = model.module.get_submodule("model.layers.0.mlp.up_proj")
    with fake_quantized(model):
        part.parametrizations.weight.original.data.add_(0.01)
        raise KeyError("killed")


def test_a_training_that_fails_leaves_a_plain_model_on_its_grid(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs)
    with pytest.raises(KeyError, match="killed"):
        _killed(model)
    weight = model.module.get_parameter("model.layers.0.mlp.up_proj.weight").data
    assert torch.equal(grids_of(model)["model.layers.0.mlp.up_proj.weight"].round(weight), weight)


def test_frozen_weights_are_not_rounded_again(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs)
    module: Any = model.module
    module.model.embed_tokens.weight.requires_grad_(False)
    with fake_quantized(model):
        assert type(module.model.embed_tokens) is torch.nn.Embedding
        assert type(module.lm_head) is torch.nn.Linear


def test_settling_puts_weights_on_their_grids(writer: Callable[..., Model], pairs: Any) -> None:
    model = _quantized(writer, pairs, format="nbits", bits=3)
    name = "model.layers.1.self_attn.o_proj.weight"
    weight = model.module.get_parameter(name).data
    weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    wanted = grids_of(model)[name].round(weight)
    assert not torch.equal(weight, wanted)
    settle(model)
    assert torch.equal(model.module.get_parameter(name).data, wanted)


def test_a_float_model_is_refused(writer: Callable[..., Model]) -> None:
    with pytest.raises(AttarError, match="Quantize it first"), fake_quantized(writer()):
        pass
