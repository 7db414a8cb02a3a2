"""Pixels and patch tokens: where they are added, what learns, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.patch import PatchPrompt
from attar.prompts.kinds.settings import SoftSettings
from attar.students import folder
from attar.students.settings import ModelSettings


def _timm(name: str = "test_vit", size: int = 160) -> Model:
    torch.manual_seed(0)
    settings = ModelSettings(model=f"timm:{name}", pretrained=False)
    model = folder.make(settings, None, ["a", "b", "c"], (3, size, size))
    model.module.eval()
    return model


def _network(model: Model) -> Any:
    return model.module


def _pixels(model: Model) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, *model.facts["shape"])


def test_a_pixel_prompt_begins_as_the_model_itself(net: Callable[..., Model]) -> None:
    for settings in (SoftSettings(kind="pixel", length=2), SoftSettings(kind="pixel", whole=True)):
        model, pixels = net(net="cnn", widths=(4,)), torch.randn(2, 1, 8, 8)
        model.module.eval()
        told = model.module(pixels)
        assert torch.equal(add_prompt(model, settings).module(pixels), told)


def test_a_frame_is_added_at_the_border_alone() -> None:
    model = Model(torch.nn.Flatten(), "net", None, {"shape": [2, 5, 6]})
    model.module.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    prompted = add_prompt(model, SoftSettings(kind="pixel", length=2, init="random"))
    said = prompted.module(torch.zeros(1, 2, 5, 6)).view(2, 5, 6)
    assert (said[:, 2:-2, 2:-2] == 0).all()
    said[:, 2:-2, 2:-2] = 1.0
    assert (said != 0).all()
    assert prompted.facts["soft"]["parameters"] == 2 * (5 * 6 - 1 * 2)
    assert prompted.facts["soft"]["virtual_tokens"] == 0


def test_a_frame_that_covers_the_image_is_refused(net: Callable[..., Model]) -> None:
    with pytest.raises(AttarError, match="leaves nothing of an image of 8 x 8"):
        add_prompt(net(), SoftSettings(kind="pixel", length=4))
    whole = add_prompt(net(), SoftSettings(kind="pixel", length=4, whole=True))
    assert whole.facts["soft"]["parameters"] == 64


@pytest.mark.parametrize(("kind", "deep"), [("pixel", False), ("patch", False), ("patch", True)])
def test_gradients_reach_the_prompt_alone(kind: Any, deep: bool) -> None:
    model = add_prompt(_timm(), SoftSettings(kind=kind, length=3, deep=deep))
    model.module.train()
    before = {name: tensor.clone() for name, tensor in _network(model).base.state_dict().items()}
    model.module(_pixels(model)).logsumexp(dim=1).sum().backward()
    assert [p for p in model.module.parameters() if p.grad is not None] == [_network(model).prompt.values]
    assert (_network(model).prompt.values.grad != 0).float().mean() > 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in _network(model).base.state_dict().items())


def test_running_statistics_of_the_frozen_model_stay(net: Callable[..., Model]) -> None:
    model = add_prompt(net(net="cnn", widths=(4,)), SoftSettings(kind="pixel", length=1))
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    model.module.train()
    model.module(torch.randn(4, 1, 8, 8) + 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert model.module.training
    assert not _network(model).base.training


def _slow(base: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Follow the paper's equations with hooks: insert before a block, drop before the next, drop before the norm."""
    first, count = base.num_prefix_tokens, tokens.shape[1]
    handles = []

    def insert(place: int) -> Any:
        def hook(block: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            states = args[0]
            behind = states[:, first:] if place == 0 else states[:, first + count :]
            return (torch.cat([states[:, :first], tokens[place].expand(len(states), -1, -1), behind], dim=1),)

        return hook

    for place in range(len(tokens)):
        handles.append(base.blocks[place].register_forward_pre_hook(insert(place)))
    handles.append(
        base.norm.register_forward_pre_hook(
            lambda norm, args: (torch.cat([args[0][:, :first], args[0][:, first + count :]], dim=1),)
        )
    )
    said: torch.Tensor = base(pixels)
    for handle in handles:
        handle.remove()
    return said


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
@pytest.mark.parametrize("deep", [False, True])
def test_patch_tokens_stand_between_class_token_and_patches(name: str, deep: bool) -> None:
    model = _timm(name, 64 if name == "test_vit2" else 160)
    pixels = _pixels(model)
    plain = model.module(pixels)
    prompted = add_prompt(model, SoftSettings(kind="patch", length=3, deep=deep))
    tokens = _network(prompted).prompt.values
    assert tokens.shape == (len(_network(model).blocks) if deep else 1, 3, _network(model).embed_dim)
    said = prompted.module(pixels)
    assert torch.allclose(said, _slow(model.module, pixels, tokens), atol=1e-5)
    assert not torch.equal(said, plain)  # one of them scales its layers down at the beginning
    assert prompted.facts["soft"]["virtual_tokens"] == 3


def test_patch_tokens_need_a_vision_transformer(net: Callable[..., Model]) -> None:
    for model in (_timm("test_resnet"), net()):
        with pytest.raises(AttarError, match="is for the vision transformers of timm"):
            add_prompt(model, SoftSettings(kind="patch"))


def test_patch_tokens_begin_within_their_bound() -> None:
    torch.manual_seed(0)
    model = _timm()
    values = PatchPrompt.begin(model, SoftSettings(kind="patch", length=50), None)
    bound = (6.0 / (16 * 16 * 3 + 64)) ** 0.5
    assert 0.9 * bound < float(values.abs().max()) <= bound
