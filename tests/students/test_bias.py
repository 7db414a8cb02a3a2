"""A bias on the last layer: exact in the logits of every kind of model, and kept by save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.students.bias import apply_bias, last_layers
from attar.students.settings import Build, ModelSettings

LABELS = ["a", "b", "c"]
BIAS = np.array([0.5, -1.25, 0.75])


def _image(settings: ModelSettings, channels: int = 3) -> Model:
    torch.manual_seed(0)
    model = folder.make(settings, None, LABELS, (channels, 32, 32))
    model.module.eval()
    return model


def _logits(model: Model) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        if model.processor is not None:
            said = model.module(**model.processor(["a fine warm jacket", "bad"], return_tensors="pt", padding=True))
        else:
            said = model.module(torch.randn(2, *model.facts["shape"]))
    return said if isinstance(said, torch.Tensor) else said.logits


def _vision(tmp_path: Path) -> Model:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    return folder.make(ModelSettings(model=str(tmp_path / "resnet")), tmp_path / "resnet", LABELS, (3, 32, 32))


def _make(kind: str, bert_folder: Path, tmp_path: Path) -> Model:
    if kind == "bert":
        torch.manual_seed(0)
        return folder.make(ModelSettings(model=str(bert_folder)), bert_folder, LABELS, ())
    if kind == "resnet of transformers":
        return _vision(tmp_path)
    if kind in ("mlp", "cnn"):
        return _image(ModelSettings(build=Build(net=kind, widths=(4,), dropout=0.1)), 1)  # type: ignore[arg-type]
    return _image(ModelSettings(model=kind, pretrained=False))


KINDS = ["bert", "resnet of transformers", "mlp", "cnn", "timm:resnet10t", "torchvision:mobilenet_v3_small"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_change_by_the_bias_alone_and_survive_save_and_load(
    kind: str, bert_folder: Path, tmp_path: Path
) -> None:
    model = _make(kind, bert_folder, tmp_path)
    model.module.eval()
    before = _logits(model)
    apply_bias(model, BIAS)
    after = _logits(model)
    assert torch.allclose(after, before + torch.tensor(BIAS, dtype=torch.float32), atol=1e-6)
    folder.save(model, tmp_path / "saved")
    assert torch.equal(_logits(folder.load(tmp_path / "saved")), after)


def test_plain_transformers_reads_the_bias(bert_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = _make("bert", bert_folder, tmp_path)
    before = model.module.classifier.bias.detach().clone()
    apply_bias(model, BIAS)
    folder.save(model, tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.allclose(plain.classifier.bias, before + torch.tensor(BIAS, dtype=torch.float32))


def test_the_gradient_still_reaches_the_bias(net: Any) -> None:
    model = net()
    apply_bias(model, np.array([1.0, -1.0]))
    layer = last_layers(model)[0]
    assert layer.bias.is_leaf
    assert layer.bias.requires_grad


def test_a_head_without_a_bias_gets_none(llama_folder: Path) -> None:
    model = folder.make(ModelSettings(model=str(llama_folder)), llama_folder, LABELS, ())
    with pytest.raises(AttarError, match="LlamaForSequenceClassification has no bias, and its library would not load"):
        apply_bias(model, BIAS)
    assert model.module.score.bias is None


def test_a_model_that_does_not_end_in_its_labels_is_refused() -> None:
    model = Model(torch.nn.Sequential(torch.nn.Linear(4, 5)), "net", None, {"labels": LABELS})
    with pytest.raises(AttarError, match="does not end in a linear layer with 3 outputs"):
        apply_bias(model, BIAS)
    with pytest.raises(AttarError, match="does not end in a linear layer"):
        apply_bias(Model(torch.nn.ReLU(), "net", None, {"labels": LABELS}), BIAS)


def test_two_heads_of_which_a_model_takes_the_mean_change_alike() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 3}
    module = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **sizes)
    model = Model(module.eval(), "timm", None, {"labels": LABELS, "shape": [3, 32, 32]})
    before = _logits(model)
    apply_bias(model, BIAS)
    assert torch.allclose(_logits(model), before + torch.tensor(BIAS, dtype=torch.float32), atol=1e-6)


def test_a_bias_of_another_size_is_a_programmers_mistake(net: Any) -> None:
    with pytest.raises(ValueError, match="the model has 2 labels"):
        apply_bias(net(), BIAS)
