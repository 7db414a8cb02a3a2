from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.compressors.prune.channels import Channels
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.meters.flops import count_flops
from attar.students import folder
from attar.students.settings import ModelSettings
from attar.tasks.image_classification import ImageClassification


def _loss(model: Model, examples: Any) -> torch.Tensor:
    task = ImageClassification()
    batch = task.collate(model, examples)
    return torch.nn.functional.cross_entropy(task.rows(model, batch).dense(), batch.targets)


def _apply(model: Model, examples: Any, **settings: Any) -> Any:
    step = Channels(Channels.Settings(**settings))
    return step.apply(model, Calibration(ImageClassification(), examples, list(examples.inputs), loss=_loss))


def _flops(model: Model) -> int:
    pixels = torch.zeros((1, *model.facts["shape"]))
    return count_flops(lambda: model.module.eval()(pixels))


def _named(name: str, shape: tuple[int, ...] = (3, 32, 32)) -> Model:
    torch.manual_seed(0)
    settings = ModelSettings(model=name, pretrained=False)
    made = folder.make(settings, None, ["a", "b", "c"], shape)
    made.module.eval()
    return made


def _survives(model: Model, where: Path) -> None:
    """Check that saved and loaded, and exported, a model says what it said."""
    import onnxruntime

    from attar.exporters.onnx import OnnxExporter

    pixels = torch.rand(2, *model.facts["shape"])
    with torch.no_grad():
        said = model.module.eval()(pixels)
    folder.save(model, where / "saved")
    loaded = folder.load(where / "saved")
    with torch.no_grad():
        assert torch.equal(loaded.module(pixels), said)
    assert loaded.facts == model.facts
    OnnxExporter().export(loaded, where / "model.onnx")
    session = onnxruntime.InferenceSession(where / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"pixel_values": pixels.numpy()})[0], said, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_share_of_the_multiplications_goes(
    net: Callable[..., Model], images: Callable[..., Any], scope: str, tmp_path: Path
) -> None:
    model = net(net="cnn", widths=(64, 64, 96), hidden=32)
    before = _flops(model)
    smaller, plan = _apply(model, images(8), macs=0.5, scope=scope)
    assert _flops(smaller) / before == pytest.approx(0.5, abs=0.05)
    assert plan.after["macs"] * 2 == _flops(smaller)
    widths = smaller.facts["build"]["widths"]
    assert [part.out_channels for part in smaller.module if isinstance(part, torch.nn.Conv2d)] == widths
    assert all(width % 8 == 0 for width in widths)
    assert smaller.module[0].in_channels == 1
    assert smaller.module[-1].out_features == 2
    assert _flops(model) == before  # what was given is as it was
    _survives(smaller, tmp_path)


def test_a_residual_network_keeps_its_sums(images: Callable[..., Any], tmp_path: Path) -> None:
    model = _named("torchvision:resnet18")
    before = _flops(model)
    smaller, plan = _apply(model, images(8), macs=0.5)
    assert _flops(smaller) / before == pytest.approx(0.5, abs=0.03)
    assert smaller.facts["channels"] is True
    assert "own widths" in plan.notes[-1]
    _survives(smaller, tmp_path)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:mobilenet_v2"])
def test_depthwise_and_squeezed_networks_load_again(name: str, images: Callable[..., Any], tmp_path: Path) -> None:
    model = _named(name)
    size = sum(parameter.numel() for parameter in model.module.parameters())
    smaller, plan = _apply(model, images(8), ratio=0.4, round_to=4)
    assert sum(parameter.numel() for parameter in smaller.module.parameters()) < 0.8 * size
    assert plan.after["channels"] < plan.before["channels"]
    pixels = torch.rand(2, 3, 32, 32)
    folder.save(smaller, tmp_path)
    loaded = folder.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.module(pixels), smaller.module.eval()(pixels))
    described = [str(part) for part in loaded.module.modules() if isinstance(part, torch.nn.Conv2d)]
    assert described == [str(part) for part in smaller.module.modules() if isinstance(part, torch.nn.Conv2d)]


def test_a_network_of_gray_images_loads_again(images: Callable[..., Any], tmp_path: Path) -> None:
    smaller, _ = _apply(_named("timm:test_resnet", (1, 32, 32)), images(8), macs=0.4, round_to=4)
    _survives(smaller, tmp_path)  # a first convolution of one channel is no depthwise one


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_channel_that_does_nothing_goes_first(
    net: Callable[..., Model], images: Callable[..., Any], importance: str
) -> None:
    model = net(net="cnn", widths=(8, 8))
    idle = [1, 2, 4, 7]
    with torch.no_grad():
        for layer in (0, 3):
            model.module[layer].weight[idle] *= 1e-3  # type: ignore[index]
            model.module[layer + 1].weight[idle] *= 1e-3  # type: ignore[index]
            model.module[layer + 1].bias[idle] = 0  # type: ignore[index]
        model.module[3].weight[:, idle] *= 1e-3  # type: ignore[index]
        model.module[-1].weight[:, idle] *= 1e-3  # type: ignore[index]
    pixels = torch.rand(4, 1, 8, 8)
    said = model.module.eval()(pixels)
    smaller, _ = _apply(model, images(16), ratio=0.5, round_to=4, importance=importance)
    assert smaller.facts["build"]["widths"] == [4, 4]
    torch.testing.assert_close(smaller.module.eval()(pixels), said, rtol=1e-3, atol=1e-3)
    assert all(parameter.grad is None for parameter in smaller.module.parameters())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_units_of_linear_layers_are_channels_too(
    net: Callable[..., Model], images: Callable[..., Any], tmp_path: Path
) -> None:
    smaller, _ = _apply(net(widths=(32, 16)), images(8), ratio=0.5)
    assert smaller.facts["build"]["widths"] == [16, 8]
    _survives(smaller, tmp_path)


def test_frozen_weights_stay_frozen(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    model = net(widths=(32, 16))
    model.module[1].weight.requires_grad_(False)  # type: ignore[index]
    smaller, _ = _apply(model, images(8), ratio=0.5)
    assert [parameter.requires_grad for parameter in smaller.module.parameters()][:2] == [False, True]


def test_taylor_needs_a_loss(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    step = Channels(Channels.Settings(importance="taylor"))
    with pytest.raises(AttarError, match="needs the loss"):
        step.apply(net(widths=(32,)), Calibration(ImageClassification(), images(4), []))


def test_nothing_to_remove_is_told(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    with pytest.raises(AttarError, match="removed nothing"):
        _apply(net(widths=(8,)), images(4), ratio=0.1)


def test_bad_weights_and_quantized_ones_are_refused(net: Callable[..., Model], images: Callable[..., Any]) -> None:
    model = net(net="cnn", widths=(16,))
    model.facts["quantized"] = {"0.weight": {"bits": 8}}
    with pytest.raises(AttarError, match="Put quantization last"):
        _apply(model, images(4))
    del model.facts["quantized"]
    model.module[1].running_var[0] = float("inf")  # type: ignore[index]
    with pytest.raises(AttarError, match=r"buffer '1.running_var' holds NaN or infinity"):
        _apply(model, images(4))


def test_networks_with_attention_are_refused(images: Callable[..., Any], text_student: Model, texts: Any) -> None:
    with pytest.raises(AttarError, match=r"VisionTransformer.*has attention"):
        _apply(_named("timm:vit_tiny_patch16_224", (3, 224, 224)), images(4))
    with pytest.raises(AttarError, match=r"BertForSequenceClassification \(transformers\)"):
        _apply(text_student, texts)


@pytest.mark.parametrize("settings", [{"macs": 0}, {"macs": 1}, {"ratio": 1}, {"macs": 0.5, "ratio": 0.5}])
def test_shares_are_shares(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Channels.Settings(**settings)


def test_what_cannot_be_expressed_is_refused_before_work() -> None:
    step = Channels(Channels.Settings())
    with pytest.raises(AttarError, match="bert"):
        step.legal({"model_type": "bert"}, "onnx")
    with pytest.raises(AttarError, match="hf cannot express"):
        step.legal({}, "hf")
    assert step.legal({}, "onnx") == {}
