from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.errors import AttarError
from attar.exporters.bundle import CARD, Bundle, write_card
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification

WITHOUT_TORCH = """
import sys, pathlib, json
import numpy as np
from attar.exporters.bundle import Bundle
bundle = Bundle(pathlib.Path(sys.argv[1]), 1)
inputs = np.load(sys.argv[2]) if sys.argv[2].endswith(".npy") else json.loads(pathlib.Path(sys.argv[2]).read_text())
scores = bundle.scores(inputs)
heavy = [name for name in ("torch", "transformers", "pydantic") if name in sys.modules]
print(json.dumps({"heavy": heavy, "scores": scores.tolist(), "labels": [a.label for a in bundle.answer(inputs)]}))
"""


@pytest.fixture
def text_bundle(text_graph: tuple[Any, Path], tmp_path: Path) -> tuple[Any, Path]:
    model, path = text_graph
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(path, folder / "model.onnx")
    model.processor.backend_tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"task": "text-classification", "labels": ["fine", "bad"], "model": "model.onnx", "precision": "float32"}
    write_card(folder, {**facts, "input": {"kind": "text", "max_length": 32}})
    return model, folder


@pytest.fixture
def image_bundle(image_graph: tuple[Any, Path], tmp_path: Path) -> tuple[Any, Path]:
    model, path = image_graph
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(path, folder / "model.onnx")
    facts = {
        "task": "image-classification",
        "labels": ["above", "below"],
        "model": "model.onnx",
        "precision": "float32",
    }
    write_card(folder, {**facts, "input": {"kind": "image", "shape": [1, 8, 8], "mean": 0.5, "std": 0.5}})
    return model, folder


def _run(folder: Path, inputs: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(inputs)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _exact(task: Any, model: Any, examples: Examples) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(task.rows(model, task.collate(model, examples)).dense())


def test_texts_run_without_torch(text_bundle: tuple[Any, Path], texts: Examples, tmp_path: Path) -> None:
    model, folder = text_bundle
    long = Examples(texts.keys, [*texts.inputs[:7], "a fine warm jacket " * 30], texts.labels)
    (tmp_path / "in.json").write_text(json.dumps(long.inputs))
    said = _run(folder, tmp_path / "in.json")
    exact = _exact(TextClassification(), model, long)
    assert said["heavy"] == []
    assert np.abs(np.array(said["scores"]) - exact).max() < 1e-5
    assert said["labels"] == [["fine", "bad"][i] for i in exact.argmax(1)]


def test_images_run_without_torch(
    image_bundle: tuple[Any, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, folder = image_bundle
    examples = images(6)
    np.save(tmp_path / "in.npy", np.asarray(examples.inputs))
    said = _run(folder, tmp_path / "in.npy")
    exact = _exact(ImageClassification(), model, examples)
    assert said["heavy"] == []
    assert np.abs(np.array(said["scores"]) - exact).max() < 1e-4
    assert said["labels"] == [["above", "below"][i] for i in exact.argmax(1)]


def test_answers_are_probabilities_by_label(text_bundle: tuple[Any, Path]) -> None:
    answer = Bundle(text_bundle[1]).answer(["a fine jacket"])[0]
    assert answer.scores[answer.label] == answer.probability == max(answer.scores.values())
    assert sum(answer.scores.values()) == pytest.approx(1.0)
    assert list(answer.scores) == ["fine", "bad"]


def test_nothing_asked_nothing_said(text_bundle: tuple[Any, Path]) -> None:
    bundle = Bundle(text_bundle[1])
    assert bundle.scores([]).shape == (0, 2)
    assert bundle.answer([]) == []


def test_length_counts_what_is_read(text_bundle: tuple[Any, Path], image_graph: tuple[Any, Path]) -> None:
    model, folder = text_bundle
    bundle = Bundle(folder)
    assert bundle.length("a fine jacket") == len(model.processor("a fine jacket").input_ids)
    assert bundle.length("a fine jacket " * 50) == 32
    assert bundle.bytes == sum(p.stat().st_size for p in folder.iterdir())


def test_each_answer_stands_alone(text_bundle: tuple[Any, Path], texts: Examples) -> None:
    bundle = Bundle(text_bundle[1])
    together = bundle.scores(list(texts.inputs))
    assert all(np.array_equal(bundle.scores([text])[0], row) for text, row in zip(texts.inputs, together, strict=True))


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_a_damaged_file_is_refused(name: str, harm: str, text_bundle: tuple[Any, Path]) -> None:
    path = text_bundle[1] / name
    if harm == "lost":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(AttarError, match=rf"{name} is damaged"):
        Bundle(text_bundle[1])


def test_not_a_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        with pytest.raises(AttarError, match=r"is no bundle: it has no bundle\.json"):
            Bundle(folder)
    (tmp_path / CARD).write_text("half a c")
    with pytest.raises(AttarError, match="cannot be read as JSON"):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    "card", ["[]", "{}", '{"schema": 1, "files": {}}', '{"schema": 99, "files": {}, "labels": []}']
)
def test_a_card_of_something_else(card: str, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(card)
    with pytest.raises(AttarError, match="is no bundle that this attar reads"):
        Bundle(tmp_path)


def test_a_graph_that_onnxruntime_cannot_read(text_bundle: tuple[Any, Path]) -> None:
    folder = text_bundle[1]
    card = json.loads((folder / CARD).read_text())
    (folder / "model.onnx").write_bytes(b"no graph")
    write_card(folder, {k: v for k, v in card.items() if k not in ("files", "schema")})
    with pytest.raises(AttarError, match="cannot be loaded by onnxruntime"):
        Bundle(folder)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_an_image_file_is_fitted(mode: str, image_bundle: tuple[Any, Path], tmp_path: Path) -> None:
    from PIL import Image

    Image.new(mode, (20, 12)).save(tmp_path / "a.png")
    pixels = Bundle(image_bundle[1]).read_image(tmp_path / "a.png")
    assert (pixels.shape, pixels.dtype) == ((1, 8, 8), np.uint8)


def test_no_image(image_bundle: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    for name in ("a.png", "lost.png"):
        with pytest.raises(AttarError, match="cannot be read as an image"):
            Bundle(image_bundle[1]).read_image(tmp_path / name)
