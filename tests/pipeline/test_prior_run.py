"""Class masses that a student is corrected to: what the recipe may ask for, and what the run then does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.pipeline.in_process import made, untimed

from attar import api
from attar.errors import AttarError, RecipeError
from attar.pipeline import works
from attar.pipeline.check import check
from attar.pipeline.load import validate
from attar.pipeline.recipe import Recipe
from attar.sources import data as sources
from attar.students import folder
from attar.students.prior import mean_mass
from attar.tasks.image_classification import ImageClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.recorded import RecordedTeacher

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 12, "batch_size": 20, "learning_rate": 0.01, "precision": "float32", "validations": 1}
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 100, "validation": 40, "test": 20},
    "teacher": {"build": {"net": "mlp", "widths": [12]}, "train": {**TRAIN, "steps": 30}, "precision": "float32"},
    "student": {"build": {"net": "mlp", "widths": [4]}},
    "distill": TRAIN,
    "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
}
LEANING = [0.4, 0.3, *[0.0375] * 8]
"""Masses by which the student saw far too little of two classes: about a tenth of the examples are of each."""


def _body(prior: Any) -> dict[str, Any]:
    return {**RECIPE, "distill": {**TRAIN, "prior": prior}}


def _masses(artifact: Any, examples: Any) -> np.ndarray:
    model = folder.load(artifact.folder)
    return mean_mass(ClassifierTeacher(model, ImageClassification(), "").answer(examples).dense().double().numpy())


def test_the_teachers_prior_is_reached_by_the_student_and_left_to_the_control(tmp_path: Path) -> None:
    plain, done = made("student", tmp_path, _body("none")), made("student", tmp_path, _body("teacher"))
    found = done["student"].card["prior"]
    validation = sources.load(done["data"].folder).validation
    said = RecordedTeacher(done["record"].folder / "answers", "").answer(validation)
    wanted = mean_mass(said.dense().double().numpy())
    assert (found["wanted"], found["only"], found["examples"]) == ("teacher", None, 40)
    assert np.allclose(found["prior"], wanted, atol=1e-5)
    assert np.abs(_masses(plain["student"], validation) - wanted).max() > 0.01
    assert np.allclose(_masses(done["student"], validation), wanted, atol=1e-4)
    assert "prior" not in done["control"].card
    assert done["control"].card["history"] == plain["control"].card["history"]
    assert done["student"].card["history"] == plain["student"].card["history"]  # only the last bias is another
    assert "prior" not in plain["student"].card


def test_given_masses_bend_only_classes_that_were_seen_too_rarely(tmp_path: Path) -> None:
    done = made("student", tmp_path, _body(LEANING))
    for name in ("student", "control"):
        found = done[name].card["prior"]
        assert (found["wanted"], found["only"]) == ("given", [0, 1])
        assert found["examples"] > 1000  # validation and what is in no split
        assert found["after"][:2] == pytest.approx([0.4, 0.3], abs=1e-4)
        assert sum(found["after"][2:]) == pytest.approx(0.3, abs=1e-4)
        assert found["before"][0] < 0.3


def test_classes_seen_as_often_as_wanted_are_left_alone(tmp_path: Path) -> None:
    plain, done = made("student", tmp_path, _body("none")), made("student", tmp_path, _body("uniform"))
    assert done["student"].card["prior"] == {"wanted": "uniform", "only": [], "changed": 0.0}
    validation = sources.load(done["data"].folder).validation
    assert np.array_equal(_masses(done["student"], validation), _masses(plain["student"], validation))


@pytest.mark.parametrize("prior", ["uniform", "teacher", LEANING], ids=["uniform", "teacher", "given"])
def test_a_prior_leaves_teacher_and_record_alone(prior: Any, tmp_path: Path) -> None:
    first, second = (
        {stage.name: stage.key for stage in check(Recipe.model_validate(_body(one)), tmp_path).stages}
        for one in ("none", prior)
    )
    assert {name for name in first if first[name] == second[name]} == {"data", "teacher", "record"}


def test_a_whole_run_with_a_prior_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untimed(monkeypatch)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(_body("teacher")), encoding="utf-8")
    api.run(tmp_path / "recipe.yaml", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in summary["models"]] == ["teacher", "control", "student", "compressed", "exported"]
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ([0.5, 0.5], "must have one number for each of the 10 classes, got 2."),
        ([0.1] * 9 + [0.2], "must sum to 1, got 1.1."),
        ([0.0999] * 10, "must sum to 1, got 0.999."),
        ([0.0, 0.2, *[0.1] * 8], "must be above 0 for every class, got 0 at place 0"),
        ([-0.1, 0.3, *[0.1] * 8], "must be above 0 for every class, got -0.1 at place 0"),
    ],
    ids=str,
)
def test_masses_that_are_no_prior_are_refused(prior: Any, said: str, tmp_path: Path) -> None:
    body = {**_body(prior), "data": {**RECIPE["data"], "labels": [str(digit) for digit in range(10)]}}
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), tmp_path)
    (mistake,) = caught.value.mistakes
    assert mistake.where == "distill.prior"
    assert mistake.message.startswith(said)


def test_a_wrong_count_of_masses_shows_before_the_training_where_the_recipe_names_no_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("record", tmp_path, _body("none"))
    monkeypatch.setattr(works, "train_model", lambda *given: pytest.fail("trained first"))
    body = _body([0.5, 0.5])
    check(Recipe.model_validate(body), tmp_path)  # how many classes there are is in the data
    with pytest.raises(AttarError, match="one number for each of the 10 classes, got 2"):
        made("control", tmp_path, body)


@pytest.mark.parametrize(
    ("prior", "where"),
    [("even", "distill.prior"), (["a", 0.5], "distill.prior[0]"), (0.5, "distill.prior"), ({"a": 1}, "distill.prior")],
    ids=str,
)
def test_what_is_no_prior_at_all_is_told_with_its_path(prior: Any, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(_body(prior), "recipe.yaml")
    assert [mistake.where for mistake in caught.value.mistakes] == [where]


def test_a_task_that_writes_has_no_prior(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,title\none,a\ntwo,b\nthree,c\nfour,d\n", encoding="utf-8")
    body: Mapping[str, Any] = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 1, "test": 1},
        "teacher": {"model": str(llama_folder), "train": {}},
        "student": {"model": "teacher", "layers": 1},
        "distill": {"prior": "uniform"},
    }
    with pytest.raises(RecipeError, match=r"distill\.prior: is for tasks with labels; text-generation has none"):
        check(Recipe.model_validate(body), tmp_path)
