from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.store.files import write_json
from attar.students import folder
from attar.students.settings import Build, ModelSettings


def test_not_a_student(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="cannot be read as JSON"):
        folder.load(tmp_path)


def test_an_unknown_kind(tmp_path: Path) -> None:
    write_json(tmp_path / folder.CARD, {"schema": 1, "kind": "nett", "facts": {}})
    with pytest.raises(AttarError, match=r"no student 'nett'. Did you mean 'net'"):
        folder.load(tmp_path)


@pytest.mark.parametrize("harm", ["lost", "cut", "garbage", "other"])
def test_weights_that_do_not_fit(harm: str, tmp_path: Path, net: Callable[..., Any]) -> None:
    folder.save(net(), tmp_path)
    weights = tmp_path / "model.safetensors"
    if harm == "lost":
        weights.unlink()
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif harm == "garbage":
        weights.write_bytes(b"not safetensors at all")
    else:
        folder.save(net(widths=(5,)), tmp_path / "other")
        weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(AttarError, match="cannot be loaded"):
        folder.load(tmp_path)


def test_equal_seeds_make_equal_networks(net: Callable[..., Any]) -> None:
    one, two, three = net(0), net(0), net(1)
    pairs = zip(one.module.parameters(), two.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(one.module.parameters()), next(three.module.parameters()))


def test_build_for_text_is_refused() -> None:
    with pytest.raises(AttarError, match="a text task needs `model`"):
        folder.make(ModelSettings(build=Build()), None, ["a", "b"], ())


@pytest.mark.parametrize(("side", "pools"), [(2, 0), (8, 1), (32, 2)])
def test_a_cnn_halves_while_there_is_room(side: int, pools: int) -> None:
    settings = ModelSettings(build=Build(net="cnn", widths=(4, 4, 4, 4), hidden=6))
    module = folder.make(settings, None, ["a", "b"], (3, side, side)).module
    assert sum(isinstance(part, torch.nn.MaxPool2d) for part in module.modules()) >= pools
    assert module.eval()(torch.zeros(2, 3, side, side)).shape == (2, 2)


@pytest.mark.parametrize(
    ("model", "channels", "words"),
    [
        ("timm:resnet81", 3, "timm has no model 'resnet81'.*Did you mean"),
        ("torchvision:resnet81", 3, "torchvision has no model 'resnet81'.*Did you mean"),
        ("torchvision:resnet18", 1, "reads 3 channels, but the images have 1"),
    ],
)
def test_named_networks_that_cannot_be_made(model: str, channels: int, words: str) -> None:
    with pytest.raises(AttarError, match=words):
        folder.make(ModelSettings(model=model, pretrained=False), None, ["a", "b"], (channels, 8, 8))


def test_a_network_for_images_refuses_text() -> None:
    with pytest.raises(AttarError, match="needs a text model"):
        folder.make(ModelSettings(model="timm:resnet18", pretrained=False), None, ["a"], ())
