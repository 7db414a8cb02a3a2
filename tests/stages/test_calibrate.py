from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model
from attar.exporters.bundle import Bundle
from attar.stages.calibrate import graph_calibration
from attar.stages.export import _bundled, export
from attar.students import folder as students
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification, text_ids


def _data(examples: Examples, gold: frozenset[str]) -> DataSet:
    return DataSet(("fine", "bad"), examples, examples, examples, gold)


def test_texts_are_fed_as_the_bundle_reads_them(
    text_graph: tuple[Model, Path], texts: Examples, tmp_path: Path
) -> None:
    model, path = text_graph
    graph = _copy(path, tmp_path)
    bundled = partial(_bundled, model, TextClassification.name, ("fine", "bad"))
    feeds = graph_calibration(bundled, graph, _data(texts, frozenset())).feeds
    assert len(feeds) == len(texts)
    assert [feed["input_ids"][0].tolist() for feed in feeds] == text_ids(model, list(texts.inputs))
    assert [feed["input_ids"].shape for feed in feeds[2:4]] == [
        feeds[2]["input_ids"].shape,
        feeds[3]["input_ids"].shape,
    ]
    assert all((feed["attention_mask"] == 1).all() for feed in feeds)


def test_images_are_fed_normalized(
    image_graph: tuple[Model, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, path = image_graph
    graph, some = _copy(path, tmp_path), images(6)
    feeds = graph_calibration(
        partial(_bundled, model, ImageClassification.name, ("a", "b")), graph, _data(some, frozenset())
    ).feeds
    wanted = ImageClassification().collate(model, some).inputs["pixel_values"].numpy()
    assert np.array_equal(np.concatenate([feed["pixel_values"] for feed in feeds]), wanted)


@pytest.mark.parametrize("gold", [frozenset({"validation"}), frozenset()])
def test_the_judge_says_accuracy_or_agreement(
    gold: frozenset[str], image_graph: tuple[Model, Path], images: Callable[..., Examples], tmp_path: Path
) -> None:
    model, path = image_graph
    graph, some = _copy(path, tmp_path), images(40)
    wrong = replace(some, labels=1 - some.labels)
    bundled = partial(_bundled, model, ImageClassification.name, ("a", "b"))
    judge = graph_calibration(bundled, graph, _data(wrong, gold)).judge
    assert judge is not None
    with bundled(graph) as bundle:
        accuracy = float((bundle.scores(np.asarray(some.inputs)).argmax(1) == wrong.labels).mean())
    assert judge(graph) == (accuracy if gold else 1.0)
    assert accuracy < 0.1


def test_without_validation_there_is_no_judge(image_graph: tuple[Model, Path], images: Any, tmp_path: Path) -> None:
    some = images(4)
    data = DataSet(("a", "b"), some, some.take(np.arange(0)), some, frozenset())
    assert graph_calibration(partial(_bundled, image_graph[0], "", ()), image_graph[1], data).judge is None


def test_the_stage_hands_both_to_a_step(image_graph: tuple[Model, Path], images: Any, tmp_path: Path) -> None:
    students.save(image_graph[0], tmp_path / "student")
    (tmp_path / "work").mkdir()
    steps = [("static_int8", {"examples": 8, "keep": "auto", "floor": 0.5})]
    places = (tmp_path / "work", tmp_path / "bundle")
    facts = export(tmp_path / "student", "image-classification", steps, _data(images(24), frozenset()), places)
    notes = facts["plans"][0]["notes"]
    assert notes[0] == "calibrated (minmax) on 8 training examples"
    assert "lost with every layer in int8" in notes[1]
    assert Bundle(tmp_path / "bundle").card["precision"] == "int8"
    assert list((tmp_path / "work").iterdir()) == []


def _copy(graph: Path, folder: Path) -> Path:
    """Return a graph in a folder that may be written: bundles are made beside it."""
    copy = folder / "graph.onnx"
    copy.write_bytes(graph.read_bytes())
    return copy
