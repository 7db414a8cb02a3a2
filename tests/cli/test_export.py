"""``attar export`` on finished runs: of pictures to ONNX, of a model that writes to a folder of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar import api
from attar.pipeline import generation
from attar.store.lock import hold
from attar.students import folder as students
from attar.tasks.writing import write

Attar = Callable[..., tuple[int, str, str]]
WORDS = ("warm", "soft", "red", "blue", "long")


@pytest.fixture
def pictures(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the tiny run's folder, with its store as the cache."""
    shutil.copytree(tiny_run / "runs" / "tiny", tmp_path / "runs" / "tiny")
    monkeypatch.setenv("ATTAR_CACHE", str(tiny_run / "cache"))
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def titles(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a finished run of a model that writes."""
    files = {name: {"peak_rss_bytes": 1} for name in ("teacher", "student", "exported")}
    monkeypatch.setattr(generation, "measure_files", lambda *given: files)
    rows = [f"a {one} and {two} dress that fits,{one} {two}" for one in WORDS for two in WORDS if one != two]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    train = {"batch_size": 4, "learning_rate": 0.003, "precision": "float32", "validations": 1}
    recipe = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "train": 8, "validation": 3, "test": 5},
        "teacher": {"model": str(llama_folder), "precision": "float32"},
        "student": {"model": "teacher", "layers": 1},
        "prompt": {"teacher": {"template": "{text}\nTitle:", "chat": False}, "max_new_tokens": 6},
        "distill": {**train, "epochs": 1, "objective": [{"use": "forward_kl", "temperature": 1}], "control": False},
        "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
        "export": "hf",
    }
    (tmp_path / "titles.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    api.run(tmp_path / "titles.yaml", tmp_path / "runs" / "titles")
    return tmp_path / "runs" / "titles"


def test_pictures_to_onnx(attar: Attar, pictures: Path) -> None:
    status, said, _ = attar("export", "tiny", "--to", "onnx", "--json")
    found: dict[str, Any] = json.loads(said)
    target = pictures / "exports" / "onnx"
    assert (status, found["folder"]) == (0, str(target))
    summary = json.loads((pictures / "summary.json").read_text("utf-8"))
    own = next(row["quality"]["value"] for row in summary["models"] if row["name"] == "compressed")
    assert found["measured"] == own == pytest.approx(found["files"])
    assert {path.name for path in target.iterdir()} == {"model.onnx", "bundle.json", "export.json"}
    status, said, _ = attar("export", str(pictures), "--to", "onnx", "--out", str(pictures / "elsewhere"))
    assert status == 0
    assert "accuracy" in said
    assert (pictures / "elsewhere" / "model.onnx").is_file()
    assert api.load(target).card["task"] == "image-classification"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("tiny", "--to", "hf"), "this run is of image-classification"),
        (("tiny", "--to", "onx"), "There is no exporter 'onx'. Did you mean 'onnx'?"),
        (("tiny", "--to", "onnx", "--precision", "int3"), "must be one of float32, got 'int3'"),
        (("nothing", "--to", "onnx"), "There is no run 'nothing'"),
    ],
)
def test_mistakes(words: tuple[str, ...], why: str, attar: Attar, pictures: Path) -> None:
    status, said, error = attar("export", *words)
    assert (status, said) == (2, "")
    assert why in " ".join(error.split())
    assert not (pictures / "exports").exists()


def test_a_run_without_its_store_or_in_use_is_refused(
    attar: Attar, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold(pictures / ".lock", "the run"):
        assert attar("export", "tiny", "--to", "onnx")[0] == 2
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "empty"))
    status, _, error = attar("export", "tiny", "--to", "onnx")
    assert status == 2
    assert "is no longer in the cache" in " ".join(error.split())


def test_a_model_that_writes_to_hf(attar: Attar, titles: Path) -> None:
    found = api.export(titles, "hf", precision="bf16", tolerance=0.05)
    assert (found["metric"], found["precision"], found["whole_test"]) == ("perplexity", "bfloat16", True)
    assert abs(found["files"] / found["model"] - 1) < 0.05
    folder = titles / "exports" / "hf"
    model, text = students.load(folder), "a warm and red dress"
    status, said, _ = attar("predict", str(folder), text)
    assert status == 0
    assert json.loads(said) == {"input": text, "text": write(model, [text])[0][0]}
    status, _, error = attar("export", "titles", "--to", "hf", "--precision", "bf16", "--tolerance", "0")
    assert status == 2
    assert "do not answer as the model does" in " ".join(error.split())
    assert students.load(folder).kind == "causal"  # the one before is still there
