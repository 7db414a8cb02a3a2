"""Prompted models save beside what they stand on, load to the same outputs, and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.prompted import PromptedStudent
from attar.prompts.kinds.settings import SoftSettings
from attar.students import folder
from attar.students.settings import Build, ModelSettings
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration
from attar.tasks.writing import write


@pytest.mark.parametrize("kind", ["soft", "prefix"])
def test_a_classifier_by_label_words_loads_bit_for_bit(
    kind: Any,
    reader: Callable[..., Model],
    texts: Examples,
    tmp_path: Path,
    llama_folder: Path,
    scores: Callable[..., torch.Tensor],
) -> None:
    from transformers import AutoModelForCausalLM

    model = add_prompt(reader(), SoftSettings(kind=kind, length=4))
    said = scores(model, texts, TextClassification())
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    assert (loaded.kind, loaded.facts) == ("prompted", model.facts)
    assert torch.equal(scores(loaded, texts, TextClassification()), said)
    assert torch.equal(scores(model, texts, TextClassification()), said)  # saving leaves the prompt where it was
    plain, own = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path, llama_folder))
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in own.state_dict().items())


@pytest.mark.parametrize("kind", ["soft", "prefix"])
def test_a_writer_loads_and_writes_the_same(
    kind: Any, writer: Callable[..., Model], pairs: Examples, tmp_path: Path, scores: Callable[..., torch.Tensor]
) -> None:
    model = add_prompt(writer(), SoftSettings(kind=kind, length=4))
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path)
    assert torch.equal(scores(loaded, pairs, TextGeneration()), scores(model, pairs, TextGeneration()))
    some = [str(text) for text in pairs.inputs]
    assert write(loaded, some) == write(model, some)


def test_an_encoder_loads_bit_for_bit(
    text_student: Model, texts: Examples, tmp_path: Path, scores: Callable[..., torch.Tensor]
) -> None:
    model = add_prompt(text_student, SoftSettings(length=4))
    folder.save(model, tmp_path)
    task = TextClassification()
    assert torch.equal(scores(folder.load(tmp_path), texts, task), scores(model, texts, task))


IMAGES = [
    ("net", "pixel", {}),
    ("vit", "patch", {"deep": True}),
    ("vit", "patch", {}),
    ("net", "pixel", {"whole": True}),
]


def _image_model(name: str, kind: str, more: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    settings = ModelSettings(build=Build(net="cnn", widths=(4,)))
    shape: tuple[int, ...] = (1, 8, 8)
    if name == "vit":
        settings, shape = ModelSettings(model="timm:test_vit", pretrained=False), (3, 160, 160)
    model = folder.make(settings, None, ["a", "b"], shape)
    model.module.eval()
    return add_prompt(model, SoftSettings(kind=kind, length=2, init="random", **more))


@pytest.mark.parametrize(("name", "kind", "more"), IMAGES)
def test_an_image_model_loads_bit_for_bit(name: str, kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = _image_model(name, kind, more)
    pixels = torch.randn(3, *model.facts["shape"])
    with torch.no_grad():
        folder.save(model, tmp_path)
        assert torch.equal(folder.load(tmp_path).module(pixels), model.module(pixels))


@pytest.mark.parametrize(("name", "kind", "more"), IMAGES[:2])
def test_an_image_model_exports(name: str, kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = _image_model(name, kind, more)
    pixels = torch.randn(3, *model.facts["shape"])
    with torch.no_grad():
        said = model.module(pixels)
    assert np.abs(_exported(model, tmp_path, pixel_values=pixels) - said.numpy()).max() < 1e-4


def _exported(model: Model, tmp_path: Path, **inputs: torch.Tensor) -> np.ndarray:
    import onnxruntime

    from attar.exporters.onnx import OnnxExporter

    OnnxExporter().export(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    return np.asarray(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])


@pytest.mark.parametrize("kind", ["soft", "prefix"])
def test_a_text_model_exports_with_its_prompt(
    kind: Any, reader: Callable[..., Model], texts: Examples, tmp_path: Path, scores: Callable[..., torch.Tensor]
) -> None:
    model = add_prompt(reader(), SoftSettings(kind=kind, length=4))
    said = scores(model, texts, TextClassification())
    batch = TextClassification().collate(model, texts)
    assert np.abs(_exported(model, tmp_path, **batch.inputs) - said.numpy()).max() < 1e-4


def test_an_encoder_exports_with_its_prompt(
    text_student: Model, texts: Examples, tmp_path: Path, scores: Callable[..., torch.Tensor]
) -> None:
    model = add_prompt(text_student, SoftSettings(length=4))
    said = scores(model, texts, TextClassification())
    batch = TextClassification().collate(model, texts)
    assert np.abs(_exported(model, tmp_path, **batch.inputs) - said.numpy()).max() < 1e-4


def test_a_cut_file_is_refused(net: Callable[..., Model], tmp_path: Path) -> None:
    folder.save(add_prompt(net(), SoftSettings(kind="pixel", length=1)), tmp_path)
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(AttarError, match="cannot be loaded"):
        folder.load(tmp_path)


def test_none_is_made_from_nothing() -> None:
    with pytest.raises(AttarError, match="made of a trained one"):
        PromptedStudent().make(None, None, [], ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0},
        {"length": 5000},
        {"kind": "hard"},
        {"deep": True},
        {"kind": "prefix", "deep": True},
        {"whole": True},
        {"kind": "pixel", "init": "text"},
        {"kind": "patch", "init": "vocabulary"},
        {"kind": "pixel", "deep": True},
        {"temperature": 1},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SoftSettings(**wrong)


def test_images_are_read_through_the_task(images: Callable[..., Examples], net: Callable[..., Model]) -> None:
    model = add_prompt(net(), SoftSettings(kind="pixel", length=1))
    task = ImageClassification()
    assert task.rows(model, task.collate(model, images(4))).dense().shape == (4, 2)
