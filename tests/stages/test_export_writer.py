"""A bundle of a model that writes must write as the model does, from its files alone."""

from __future__ import annotations

import errno
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
from tests.exporters.tiny import put_on_grid

from attar import api
from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.bundle import CARD, Bundle, read_card
from attar.exporters.writing_bundle import WritingBundle, WritingBundleRunner
from attar.stages import export_writer as stage
from attar.stages.export_writer import export_writer
from attar.students import folder as students
from attar.tasks.text_generation import TextGeneration
from attar.tasks.writing import write

TEXTS = ["a fine warm jacket", "", "too small; " * 30, "  edges \n", "größer 😀 als {text}", "I love it <eos> so much"]
TARGETS = ["warm", "nothing", "too small " * 20, "edges", "", "love"]
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from attar import cli
sys.argv = ["attar", "predict", sys.argv[1], *json.loads(sys.argv[2])]
cli.main()
"""


def data_of(texts: list[str] = TEXTS, targets: list[str] = TARGETS) -> DataSet:
    count = len(texts)
    examples = Examples(np.arange(count), texts, np.full(count, -100), targets=targets)
    return DataSet((), examples, examples, examples, frozenset({"train", "validation", "test"}))


def exported(model: Model, folder: Path, **steps: Any) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a model's bundle and the stage's facts."""
    students.save(model, folder / "student")
    (folder / "work").mkdir(exist_ok=True)
    places = (folder / "work", folder / "bundle")
    listed = [(name, settings) for name, settings in steps.items()]
    return folder / "bundle", export_writer(folder / "student", "text-generation", listed, data_of(), places)


@pytest.fixture(params=[False, True], ids=["running", "chat"])
def bundle(request: pytest.FixtureRequest, writer: Callable[..., Model], tmp_path: Path) -> tuple[Model, Path]:
    """Return a model that writes and the folder of its bundle."""
    model = writer(chat=request.param)
    return model, exported(model, tmp_path)[0]


def test_a_bundle_writes_what_the_model_writes(bundle: tuple[Model, Path]) -> None:
    model, folder = bundle
    wanted = [texts[0] for texts in write(model, TEXTS)]
    assert len(set(wanted)) > 2
    assert WritingBundle(folder, 1).write(TEXTS) == wanted
    held = api.load(folder, 1)
    assert isinstance(held, WritingBundle)
    assert held.write(TEXTS[:1]) == wanted[:1]
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "model.onnx", "tokenizer.json"]
    assert held.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_predict_needs_no_torch(bundle: tuple[Model, Path]) -> None:
    model, folder = bundle
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder), json.dumps(TEXTS[:2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said == [{"input": text, "text": write(model, [text])[0][0]} for text in TEXTS[:2]]


def test_perplexity_is_that_of_the_task(bundle: tuple[Model, Path]) -> None:
    model, folder = bundle
    examples = data_of().validation
    task = TextGeneration()
    batch = task.collate(model, examples)
    with torch.no_grad():
        log_p = task.rows(model, batch).dense().double().log_softmax(dim=1)
    held = WritingBundle(folder, 1)
    found = [held.log_likelihood(text, target) for text, target in zip(TEXTS, TARGETS, strict=True) if target]
    counts = [len(one) for one in found]
    assert counts == [int((batch.inputs["example"] == place).sum()) for place in (0, 1, 2, 3, 5)]
    kept = batch.targets >= 0  # the end of a target that was cut is not to be learned, but can be judged
    ids = torch.where(kept, batch.targets, torch.zeros_like(batch.targets))
    wanted = log_p.gather(1, ids[:, None])[:, 0].numpy()
    assert np.abs(np.concatenate(found) - wanted)[kept.numpy()].max() < 1e-3
    assert (~kept).sum() == 1


def test_length_and_time(bundle: tuple[Model, Path]) -> None:
    model, folder = bundle
    held = WritingBundle(folder, 1)
    lengths = TextGeneration().length(model, data_of(targets=[""] * len(TEXTS)).test)
    assert [held.length(text) for text in TEXTS] == lengths.tolist()
    took = held.time_one(TEXTS[0])
    assert took["tokens"] == len(held.write_ids(TEXTS[0])) <= 12
    assert took["prefill_ms"] > 0
    assert (took["decode_ms"] > 0) == (took["tokens"] > 1)
    feed = held.feed(TEXTS[0])
    assert feed["input_ids"].shape == (1, held.length(TEXTS[0]))
    assert {value.shape[2] for name, value in feed.items() if name.startswith("past.")} == {0}


def test_a_runner_for_measuring(bundle: tuple[Model, Path]) -> None:
    runner = WritingBundleRunner({"folder": str(bundle[1]), "threads": 1})
    written = WritingBundle(bundle[1], 1).write(TEXTS[:3])
    assert runner.scores(TEXTS[:3]).tolist() == [[len(text)] for text in written]
    assert runner.precision == "float32"
    assert runner.time_one(TEXTS[0]).keys() == {"prefill_ms", "token_ms", "tokens"}
    assert runner.length(TEXTS[0]) == WritingBundle(bundle[1], 1).length(TEXTS[0])


def test_checks_are_kept(writer: Callable[..., Model], tmp_path: Path) -> None:
    _, facts = exported(writer(), tmp_path)
    assert facts["precision"] == "float32"
    assert [check["name"] for check in facts["preflight"]] == [
        "the bundle's tokenizer equals the student's",
        "the graph equals the student",
        "the graph writes what the student would",
    ]
    assert all(check["passed"] for check in facts["preflight"])


def test_a_quantized_model_is_stored_as_codes(writer: Callable[..., Model], tmp_path: Path) -> None:
    whole, _ = exported(writer(), tmp_path / "whole")
    model = put_on_grid(writer(), {"embed_tokens": 8, "_proj": 4})
    folder, facts = exported(model, tmp_path)
    assert facts["precision"] == read_card(folder)["precision"] == "int4 and int8"
    assert facts["preflight"][-1]["name"] == "the shipped graph is near the student"
    assert (folder / "model.onnx").stat().st_size < (whole / "model.onnx").stat().st_size
    assert len(WritingBundle(folder, 1).write(TEXTS)) == len(TEXTS)


def test_a_graph_is_quantized_to_int8(writer: Callable[..., Model], tmp_path: Path) -> None:
    folder, facts = exported(writer(), tmp_path, dynamic_int8={})
    assert facts["precision"] == "int8"
    assert [plan["step"] for plan in facts["plans"]] == ["dynamic_int8"]
    assert len(WritingBundle(folder, 1).write(TEXTS[:2])) == 2


def test_a_graph_that_differs_is_not_shipped(
    writer: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = WritingBundle.logits
    monkeypatch.setattr(WritingBundle, "logits", lambda self, text, target: plain(self, text, target) + 0.1)
    with pytest.raises(AttarError, match="the graph equals the student"):
        exported(writer(), tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_a_graph_that_writes_otherwise_is_not_shipped(
    writer: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WritingBundle, "write_ids", lambda self, text: [7, 8])
    with pytest.raises(AttarError, match="writes what the student would"):
        exported(writer(), tmp_path)


def test_a_full_disk_leaves_no_bundle(
    writer: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stage.shutil, "move", full)
    with pytest.raises(AttarError, match="No space is left"):
        exported(writer(), tmp_path)
    with pytest.raises(AttarError, match="is no bundle"):
        WritingBundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_bundle_is_refused(name: str, bundle: tuple[Model, Path]) -> None:
    path = bundle[1] / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AttarError, match=f"{name} is damaged"):
        WritingBundle(bundle[1])


def test_bundles_of_other_kinds_are_told_apart(bundle: tuple[Model, Path], tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="holds a model that writes"):
        Bundle(bundle[1])
    other = tmp_path / "other"
    shutil.copytree(bundle[1], other)
    card = json.loads((other / CARD).read_text(encoding="utf-8"))
    (other / CARD).write_text(json.dumps({**card, "model": "model.safetensors"}), encoding="utf-8")
    with pytest.raises(AttarError, match=r"no ONNX graph that writes: its model is model\.safetensors"):
        WritingBundle(other)
