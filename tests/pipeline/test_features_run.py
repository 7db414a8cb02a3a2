"""Runs of students that learn from what a teacher's layers give, besides what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from tests.pipeline.in_process import made, untimed

from attar import api
from attar.errors import RecipeError
from attar.pipeline.check import check
from attar.pipeline.recipe import Recipe

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 6, "batch_size": 32, "learning_rate": 0.01, "precision": "float32", "validations": 2}
HIDDEN = {"use": "hidden", "weight": 0.5, "pairs": [["map", "map"]]}
FEATURES = [{"use": "forward_kl"}, HIDDEN, {"use": "rkd", "weight": 0.1}]
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 96, "validation": 20, "test": 20},
    "teacher": {"build": {"net": "cnn", "widths": [6, 8]}, "train": TRAIN, "precision": "float32"},
    "student": {"build": {"net": "cnn", "widths": [3, 4]}},
    "distill": {**TRAIN, "objective": FEATURES},
    "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
}


def _body(**changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**RECIPE, **{name: {**RECIPE.get(name, {}), **change} for name, change in changes.items()}}


def _names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return set(file.keys())


def test_a_whole_run_with_features_ends_and_shows_who_pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untimed(monkeypatch)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(_body()), encoding="utf-8")
    api.run(tmp_path / "recipe.yaml", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert all(check["passed"] for check in summary["preflight"])
    rows = [row for row in summary["curves"]["student"] if "validation_loss" in row]
    assert rows
    for row in rows:
        shares = {name: value for name, value in row.items() if name.startswith("share of ")}
        assert set(shares) == {"share of forward_kl", "share of hidden", "share of rkd"}
        assert all(value > 0 for value in shares.values())
        assert sum(shares.values()) == pytest.approx(1, abs=2e-4)
    assert not [name for row in summary["curves"]["control"] for name in row if name.startswith("share of ")]
    assert (tmp_path / "run" / "report.html").is_file()


def test_projectors_are_learned_and_not_saved_with_the_student(tmp_path: Path) -> None:
    done = made("student", tmp_path, _body())
    assert _names(done["student"].folder) == _names(done["control"].folder)
    saved = {path.name for path in done["student"].folder.iterdir()}
    assert saved == {path.name for path in done["control"].folder.iterdir()}


def test_features_change_what_the_student_becomes_and_nothing_before_it(tmp_path: Path) -> None:
    with_features = made("student", tmp_path, _body())
    without = made("student", tmp_path, _body(distill={"objective": "forward_kl"}))
    assert with_features["record"].key == without["record"].key
    histories = [done["student"].card["history"][-1]["loss"] for done in (with_features, without)]
    assert histories[0] != histories[1]


def test_hidden_states_are_learned_in_parts_of_a_batch_as_in_a_whole_one(tmp_path: Path) -> None:
    models = {name: {"build": {"net": "mlp", "widths": [width]}} for name, width in (("teacher", 8), ("student", 4))}
    objective = [{"use": "forward_kl"}, {"use": "hidden", "pairs": [["pooled", "pooled"]]}]
    whole = made("student", tmp_path, _body(**models, distill={"objective": objective}))
    parts = made("student", tmp_path, _body(**models, distill={"objective": objective, "micro_batch_size": 8}))
    losses = [[row["loss"] for row in done["student"].card["history"]] for done in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_text_student_learns_its_teachers_hidden_states(tmp_path: Path, bert_folder: Path) -> None:
    rows = [f"{('fine', 'bad')[i % 2]} thing number {i},{('good', 'bad')[i % 2]}" for i in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    train = {"steps": 2, "batch_size": 8, "precision": "float32", "validations": 1}
    body = {
        "task": "text-classification",
        "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 8, "test": 8},
        "teacher": {"model": str(bert_folder), "train": train, "precision": "float32"},
        "student": {"model": "teacher", "layers": 1},
        "distill": {**train, "objective": [{"use": "forward_kl"}, {"use": "hidden", "compare": "cosine"}]},
    }
    check(Recipe.model_validate(body), tmp_path)
    last = made("student", tmp_path, body)["student"].card["history"][-1]
    assert {name for name in last if name.startswith("share of ")} == {"share of forward_kl", "share of hidden"}


TEXTS = {
    "task": "text-classification",
    "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 1, "test": 1},
}


@pytest.mark.parametrize("name", ["rkd", "similarity", "contrastive", "mgd"])
def test_what_compares_examples_of_a_batch_is_refused_with_a_batch_in_parts(name: str) -> None:
    body = _body(distill={"objective": [{"use": "forward_kl"}, {"use": name}], "micro_batch_size": 8})
    said = _mistakes(body, Path())
    assert said == {
        "distill.micro_batch_size": f"must be left out with {name}, which compares examples of a batch with each "
        "other; got 8."
    }


def test_a_prompted_teacher_shows_no_features(tmp_path: Path, llama_folder: Path, bert_folder: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", encoding="utf-8")
    models = {"teacher": {"model": str(llama_folder)}, "student": {"model": str(bert_folder)}}
    said = _mistakes({**TEXTS, **models, "distill": {"objective": FEATURES}}, tmp_path)
    assert set(said) == {"distill.objective[1]", "distill.objective[2]"}
    assert said["distill.objective[1]"].startswith("hidden needs features, which this teacher does not give. Fitting: ")
    assert "forward_kl" in said["distill.objective[1]"]
    assert "rkd" not in said["distill.objective[1]"]


@pytest.mark.parametrize("own", [{}, {"on_policy": {}}], ids=["recorded", "live"])
def test_a_model_that_writes_learns_no_features(own: Any, tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,title\none,a\ntwo,b\nthree,c\nfour,d\n", encoding="utf-8")
    body = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 1, "test": 1},
        "teacher": {"model": str(llama_folder), "train": {}},
        "student": {"model": "teacher", "layers": 1},
        "distill": {"objective": FEATURES, **own},
    }
    assert "hidden needs features" in _mistakes(body, tmp_path)["distill.objective[1]"]


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_network_without_layer_numbers_is_told_before_its_teacher_is_trained(model: str) -> None:
    pair = {"student": ["hidden:-1", "map"], "teacher": ["map", "hidden:-1"]}[model]
    said = _mistakes(_body(distill={"objective": [{"use": "hidden", "pairs": [pair]}]}), Path())
    assert said == {
        "distill.objective[0].pairs": f"must name other features than hidden:-1: a network from {model}.build has no "
        "layer numbers. Give pairs of map, pooled or paths of modules."
    }


def _mistakes(body: Mapping[str, Any], base: Path) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), base)
    return {mistake.where: mistake.message for mistake in caught.value.mistakes}
