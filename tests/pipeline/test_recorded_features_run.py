"""Runs whose record keeps what the teacher's layers give, so that it speaks once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.pipeline.in_process import made

from attar.errors import RecipeError
from attar.pipeline.check import check
from attar.pipeline.recipe import Recipe
from attar.store.artifacts import Artifact
from attar.teachers.classifier import ClassifierTeacher

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 6, "batch_size": 32, "learning_rate": 0.01, "precision": "float32", "validations": 2}
OBJECTIVE: list[dict[str, Any]] = [
    {"use": "forward_kl"},
    {"use": "hidden", "pairs": [["map", "map"]], "weight": 0.5},
    {"use": "rkd"},
]
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 96, "validation": 20, "test": 20},
    "teacher": {"build": {"net": "cnn", "widths": [6, 8]}, "train": TRAIN, "precision": "float32"},
    "student": {"build": {"net": "cnn", "widths": [3, 4]}},
    "distill": {**TRAIN, "objective": OBJECTIVE},
}
KEPT = {"record_features": True}


def _body(**distill: Any) -> dict[str, Any]:
    return {**RECIPE, "distill": {**RECIPE["distill"], **distill}}


def _losses(student: Artifact) -> list[float]:
    return [value for row in student.card["history"] for name, value in row.items() if name.endswith("loss")]


def _differ(first: Artifact, second: Artifact) -> float:
    """Return the largest difference of two models' weights."""
    ours, theirs = (load_file(one.folder / "model.safetensors") for one in (first, second))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def _live_and_kept(body: Mapping[str, Any], home: Path, patch: pytest.MonkeyPatch) -> list[dict[str, Artifact]]:
    """Train a student on live features, and one on recorded ones with a teacher that is silent from then on."""
    recorded = {**body, "distill": {**body["distill"], **KEPT}}
    live = made("student", home, body)
    made("record", home, recorded)
    patch.setattr(ClassifierTeacher, "answer", _silent)
    return [live, made("student", home, recorded)]


def _silent(*_: Any) -> None:
    raise AssertionError("the teacher is asked after its record")


def test_recorded_features_teach_what_live_ones_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, kept = _live_and_kept(RECIPE, tmp_path, monkeypatch)
    assert _losses(kept["student"]) == pytest.approx(_losses(live["student"]), rel=1e-3)
    assert _differ(live["student"], kept["student"]) < 5e-4
    without = made("student", tmp_path, _body(objective="forward_kl"))
    assert _differ(live["student"], without["student"]) > 2e-2
    assert "teacher" not in kept["student"].parents


def test_recorded_features_of_texts_teach_what_live_ones_teach(
    tmp_path: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fine", "bad thing", "a good one that lasts", "poor and thin and open again"]
    rows = [f"{words[i % 4]} number {i},{('good', 'bad')[i % 2]}" for i in range(48)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    train = {**TRAIN, "steps": 4, "batch_size": 8}
    terms = [{"use": "forward_kl"}, {"use": "hidden"}, {"use": "attention_transfer"}, {"use": "rkd"}]
    body = {
        "task": "text-classification",
        "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 8, "test": 8},
        "teacher": {"model": str(bert_folder), "train": train, "precision": "float32"},
        "student": {"model": str(bert_folder), "layers": 1},
        "distill": {**train, "objective": terms, "control": False},
    }
    live, kept = _live_and_kept(body, tmp_path, monkeypatch)
    assert _losses(kept["student"]) == pytest.approx(_losses(live["student"]), rel=1e-3)
    assert kept["record"].card["features"]["names"] == ["attention:-1", "hidden:-1", "mask", "pooled"]


def test_the_card_says_what_the_record_of_features_takes_and_lost(tmp_path: Path) -> None:
    card = made("record", tmp_path, _body(**KEPT))["record"].card
    facts = card["features"]
    assert facts["names"] == ["map", "pooled"]
    assert 0 < facts["relative_error"]["map"] <= 2**-11
    assert facts["bytes_per_example"] == 2 * (8 * 4 * 4 + 8)
    assert {"name", "passed", "value"} == set(card["preflight"][1])
    assert "features" not in made("record", tmp_path, RECIPE)["record"].card


def _keys(**distill: Any) -> dict[str, str]:
    return {stage.name: stage.key for stage in check(Recipe.model_validate(_body(**distill)), Path()).stages}


def test_only_a_record_with_features_depends_on_their_names() -> None:
    plain, other = _keys(), [{"use": "forward_kl"}, {"use": "rkd"}]
    assert _keys(record_features=False) == plain
    assert _keys(objective=other)["record"] == plain["record"]
    assert _keys(**KEPT)["record"] != plain["record"]
    assert _keys(**KEPT, objective=other)["record"] != _keys(**KEPT)["record"]
    heavier = [{**term, "weight": 3} for term in OBJECTIVE]
    assert _keys(**KEPT, objective=heavier)["record"] == _keys(**KEPT)["record"]
    assert {name for name, key in _keys(**KEPT).items() if plain[name] == key} == {"data", "teacher"}


def _said(body: Mapping[str, Any], base: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), base)
    return next(one.message for one in caught.value.mistakes if one.where == "distill.record_features")


def test_features_are_recorded_for_an_objective_that_reads_them() -> None:
    assert "needs an objective that compares features" in _said(_body(**KEPT, objective="forward_kl"), Path())


TEXTS = {"source": "texts.csv", "text": "text", "label": "label", "labels": ["a", "b"], "validation": 1, "test": 1}
SERVER = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("task", "teacher", "why"),
    [
        ("text-classification", {"model": "llama"}, "labels by a prompt"),
        ("text-classification", {"endpoint": SERVER}, "is behind a server"),
        ("text-generation", {"model": "llama", "train": {}}, "writes"),
    ],
)
def test_teachers_without_features_are_refused(
    task: str, teacher: Any, why: str, tmp_path: Path, llama_folder: Path, bert_folder: Path
) -> None:
    (tmp_path / "texts.csv").write_text("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", encoding="utf-8")
    data = TEXTS if task == "text-classification" else {**TEXTS, "label": None, "labels": None, "target": "label"}
    named = {**teacher, "model": str(llama_folder)} if "model" in teacher else teacher
    student = bert_folder if task == "text-classification" else llama_folder
    body = {"task": task, "data": data, "teacher": named, "student": {"model": str(student)}}
    said = _said({**body, "distill": {"objective": OBJECTIVE, **KEPT}}, tmp_path)
    assert said == f"needs a classifier as teacher; this one {why}, and gives no features. Leave it out."
