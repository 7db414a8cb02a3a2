from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.compressors.low_rank import LowRank, decompose
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

UP = "bert.encoder.layer.0.intermediate.dense"


def _apply(model: Model, examples: Any, task: Any = None, **settings: Any) -> Any:
    step = LowRank(LowRank.Settings(**settings))
    return step.apply(model, Calibration(task or TextClassification(), examples, list(examples.inputs)))


def _size(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def _logits(model: Model, examples: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.module.eval()(**TextClassification().collate(model, examples).inputs).logits
    return found


def test_factors_of_full_rank_give_the_weight_and_cut_ones_the_best() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(6, 8), torch.randn(100, 3) @ torch.randn(3, 8) + 0.2 * torch.randn(100, 8)
    hessian = inputs.T @ inputs / len(inputs)
    lost = []
    for given in (None, hessian):
        up, values, down = decompose(weight, given)
        torch.testing.assert_close(up * values @ down, weight, rtol=1e-4, atol=1e-4)
        lost.append((inputs @ (weight - up[:, :2] * values[:2] @ down[:2]).T).square().sum(1).mean())
    torch.testing.assert_close(lost[1], values[2:].square().sum(), rtol=1e-2, atol=1e-4)
    assert lost[1] < lost[0]


def test_the_best_outputs_of_a_rank_by_plain_regression() -> None:
    """The nearest outputs of rank r are the outputs on their own first r principal directions."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(5, 4), torch.randn(200, 4) * torch.tensor([5.0, 1.0, 0.5, 0.1])
    up, values, down = decompose(weight, inputs.T @ inputs / len(inputs))
    outputs = inputs @ weight.T
    left, sizes, right = torch.linalg.svd(outputs, full_matrices=False)
    best = left[:, :2] * sizes[:2] @ right[:2]
    torch.testing.assert_close(inputs @ (up[:, :2] * values[:2] @ down[:2]).T, best, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_a_ratio_sets_the_rank(text_student: Model, texts: Any, by: str) -> None:
    before = _size(text_student)
    model, plan = _apply(text_student, texts, ratio=0.4, by=by)
    layer = model.module.get_submodule(UP)
    assert tuple(layer.first.weight.shape) == (11, 32)  # 0.6 * 32 * 48 / (32 + 48) = 11.52
    assert model.facts["factored"]["linear"][UP] == 11
    assert plan.before["parameters"] == before
    assert plan.after["parameters"] == _size(model) < before
    assert model.kind == "factored"
    assert "classifier" not in model.facts["factored"]["linear"]


def test_nearly_all_energy_does_not_pay_and_little_does(text_student: Model, texts: Any) -> None:
    layer = text_student.module.get_submodule(UP)
    layer.weight.data = torch.outer(torch.randn(48), torch.randn(32))
    said = _logits(text_student, texts)
    model, plan = _apply(text_student, texts, energy=0.999, by="weights")
    assert model.facts["factored"]["linear"] == {UP: 1}
    torch.testing.assert_close(_logits(model, texts), said, rtol=1e-4, atol=1e-5)
    assert any("12 layers would not have fewer weights" in note for note in plan.notes)


def test_what_never_pays_is_told(text_student: Model, texts: Any) -> None:
    with pytest.raises(AttarError, match="nothing to do"):
        _apply(text_student, texts, energy=0.99999, by="weights")


def test_factored_models_save_load_learn_and_export(text_student: Model, texts: Any, tmp_path: Path) -> None:
    import onnxruntime

    from attar.exporters.onnx import OnnxExporter

    model, _ = _apply(text_student, texts, ratio=0.4, embeddings=8)
    said = _logits(model, texts)
    folder.save(model, tmp_path / "saved")
    loaded = folder.load(tmp_path / "saved")
    assert torch.equal(_logits(loaded, texts), said)
    assert loaded.facts == model.facts
    assert loaded.kind == "factored"
    OnnxExporter().export(loaded, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {name: t.numpy() for name, t in TextClassification().collate(loaded, texts).inputs.items()}
    feeds = {one.name: inputs[one.name] for one in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, feeds)[0], said.numpy(), rtol=1e-3, atol=1e-5)
    loaded.module(**TextClassification().collate(loaded, texts).inputs).logits.sum().backward()
    learned = [p for name, p in loaded.module.named_parameters() if "first" in name]
    assert len(learned) == 13
    assert all(p.grad is not None and int(p.grad.count_nonzero()) > 0 for p in learned)


def test_plain_transformers_does_not_take_it_for_its_own(text_student: Model, texts: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model, _ = _apply(text_student, texts, ratio=0.4)
    folder.save(model, tmp_path)
    with pytest.raises(OSError, match="safetensors"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_tied_heads_stay_tied(writer: Callable[..., Model], pairs: Any, tmp_path: Path) -> None:
    model, _ = _apply(writer(), pairs, TextGeneration(), embeddings=8)
    network: Any = model.module
    assert network.lm_head.embedding is network.model.embed_tokens
    assert model.facts["factored"]["linear"] == {}
    batch = TextGeneration().collate(model, pairs)
    rows = TextGeneration().rows(model, batch).dense()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(network(input_ids=ids).logits[0, -1].shape, rows[0].shape)
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    torch.testing.assert_close(TextGeneration().rows(loaded, batch).dense(), rows)
    assert loaded.module.lm_head.embedding is loaded.module.model.embed_tokens  # type: ignore[union-attr]
    rows.float().square().mean().backward()
    assert float(network.model.embed_tokens.table.weight.grad.abs().sum()) > 0
    names = [name for name, _ in network.named_parameters() if "table" in name]
    assert names == ["model.embed_tokens.table.weight"]


def test_the_table_is_the_nearest_of_its_rank(writer: Callable[..., Model], pairs: Any) -> None:
    dense = writer()
    table = dense.module.get_input_embeddings().weight.detach().clone()  # type: ignore[operator]
    model, _ = _apply(dense, pairs, TextGeneration(), embeddings=5)
    values = torch.linalg.svdvals(table)
    lost = (model.module.get_input_embeddings().weight - table).square().sum()
    torch.testing.assert_close(lost, values[5:].square().sum(), rtol=1e-3, atol=1e-4)


def test_label_words_are_factored_too(label_reader: Callable[..., Model], texts: Any, tmp_path: Path) -> None:
    model, _ = _apply(label_reader(), texts, ratio=0.3, embeddings=8)
    said = _logits(model, texts)
    folder.save(model, tmp_path)
    assert torch.equal(_logits(folder.load(tmp_path), texts), said)


def test_images_are_factored_too(net: Callable[..., Model], images: Callable[..., Any], tmp_path: Path) -> None:
    model, _ = _apply(net(widths=(32, 32)), images(20), ImageClassification(), ratio=0.5)
    assert set(model.facts["factored"]["linear"]) == {"1", "3"}
    pixels = torch.rand(2, 1, 8, 8)
    folder.save(model, tmp_path)
    assert torch.equal(folder.load(tmp_path).module(pixels), model.module.eval()(pixels))


def test_it_works_once_and_on_finite_weights(text_student: Model, texts: Any) -> None:
    broken = Model(text_student.module, "transformers", text_student.processor, dict(text_student.facts))
    model, _ = _apply(text_student, texts, ratio=0.4, by="weights")
    with pytest.raises(AttarError, match="works once"):
        _apply(model, texts)
    broken.module.get_submodule("classifier").weight.data[0, 0] = float("nan")  # type: ignore[operator]
    with pytest.raises(AttarError, match=r"'classifier.weight' holds NaN"):
        _apply(broken, texts)
    broken.facts["quantized"] = {"classifier": {"bits": 8}}
    with pytest.raises(AttarError, match="Put quantization last"):
        _apply(broken, texts)


def test_a_table_without_embeddings_or_too_wide_is_refused(
    net: Callable[..., Model], images: Callable[..., Any], text_student: Model, texts: Any
) -> None:
    with pytest.raises(AttarError, match="no plain table of embeddings"):
        _apply(net(), images(4), ImageClassification(), embeddings=4)
    with pytest.raises(AttarError, match="no fewer weights than the table"):
        _apply(text_student, texts, embeddings=32)


@pytest.mark.parametrize("settings", [{"ratio": 0}, {"ratio": 1}, {"energy": 1}, {"ratio": 0.5, "energy": 0.5}])
def test_shares_are_shares(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LowRank.Settings(**settings)


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_formats_without_factors_are_refused(to: str) -> None:
    step = LowRank(LowRank.Settings())
    with pytest.raises(AttarError, match=f"{to} cannot express"):
        step.legal({}, to)
    assert step.legal({"a": 1}, "onnx") == {"a": 1}


def test_a_factored_model_is_not_made_of_nothing() -> None:
    from attar.students.factored import FactoredStudent

    with pytest.raises(AttarError, match="made of a trained one"):
        FactoredStudent().make(None, None, (), ())
