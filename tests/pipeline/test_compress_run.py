"""Compression in whole tiny runs: cuts, recovery, rounds, dense rows, a target that is met and one that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar import api
from attar.errors import AttarError, RecipeError
from attar.pipeline.check import check
from attar.pipeline.recipe import Recipe
from attar.students import folder

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 12, "learning_rate": 0.01, "checkpoint_seconds": 0, "precision": "float32"}
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 200, "validation": 40, "test": 40},
    "teacher": {"build": {"widths": [24, 24]}, "train": TRAIN, "precision": "float32"},
    "student": {"build": {"widths": [16, 16]}},
    "distill": TRAIN,
    "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
}
HALF = {"use": "channels", "ratio": 0.5, "recover": {"steps": 6, "validations": 3}}


def _run(compress: Any, where: Path) -> dict[str, Any]:
    path = where / "recipe.json"
    path.write_text(json.dumps({**RECIPE, "compress": compress}))
    summary: dict[str, Any] = api.run(path, where / "run").summary
    return summary


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the file's runs."""
    return tmp_path_factory.mktemp("runs")


def test_a_cut_is_logged_recovered_and_stands_beside_dense_models(tmp_path: Path) -> None:
    summary = _run([HALF, "static_int8"], tmp_path)
    (row,) = summary["damage"]
    sizes = {model["name"]: model["parameters"] for model in summary["models"]}
    assert row["step"] == "channels"
    assert row["parameters"] == sizes["compressed"] < sizes["student"]
    assert row["steps"] == 6
    assert set(row["before"]) == set(row["after"]) == set(row["recovered"]) == {"accuracy", "loss"}
    assert row["recovered"]["accuracy"] >= row["after"]["accuracy"]  # what recovery spoils is not kept
    curve = [point for point in summary["curves"]["compress"] if "validation" in point]
    assert [point["step"] for point in curve] == [2, 4, 6]
    assert all(point["seconds"] >= 0 for point in curve)
    beside = {one["name"]: one["at"] for one in summary["beside_dense"]}
    assert set(beside) <= {"dense", "dense_2"}
    assert "equal bytes" in beside["dense"]
    for name in beside:
        model = next(model for model in summary["models"] if model["name"] == name)
        assert model["parameters"] < sizes["student"]
        assert "dominated_by" in model
    timed = {model["name"]: model for model in summary["models"]}
    assert "same_network_as" not in timed["compressed"]


def test_rounds_are_stages_that_share_what_was_done(tmp_path: Path) -> None:
    summary = _run({"steps": [{**HALF, "ratio": 0.75, "rounds": 2, "round_to": 4}], "dense": False}, tmp_path)
    assert [row["step"] for row in summary["damage"]] == ["channels", "channels"]
    assert {"compress", "compress_2"} <= set(summary["curves"])
    assert summary["damage"][1]["before"] == summary["damage"][0]["recovered"]


def test_without_recovery_the_cut_model_is_exported(tmp_path: Path) -> None:
    summary = _run({"steps": [{**HALF, "recover": False}], "dense": False}, tmp_path)
    assert "recovered" not in summary["damage"][0]
    assert "compress" not in summary["curves"]
    assert "dense" not in {model["name"] for model in summary["models"]}


def test_a_recovery_from_the_uncompressed_student(tmp_path: Path) -> None:
    own = {**HALF, "recover": {"steps": 4, "validations": 1, "teacher": "self"}}
    summary = _run({"steps": [own], "dense": False}, tmp_path)
    assert summary["damage"][0]["steps"] == 4


def test_minutes_become_steps_once(tmp_path: Path) -> None:
    own = {**HALF, "recover": {"minutes": 0.005, "validations": 1}}
    summary = _run({"steps": [own], "dense": False}, tmp_path)
    assert summary["damage"][0]["steps"] >= 1


def test_a_target_is_solved_and_met(tmp_path: Path) -> None:
    summary = _run({"to": {"bytes": "9kB"}, "recover": {"steps": 4}, "dense": False}, tmp_path)
    exported = next(model for model in summary["models"] if model["name"] == "exported")
    assert exported["bytes"] <= 9000 * 1.05
    assert summary["plan"]["expected"]["bytes"] == pytest.approx(exported["bytes"], rel=0.05)
    assert len(summary["plan"]["tried"]) >= 2


def test_a_target_that_cannot_be_met_is_refused_before_the_teacher(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match=r"compress.to asks for 0.00 MB.*The nearest is"):
        _run({"to": {"bytes": 1000}}, tmp_path)
    begun = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in begun if event["event"] == "stage-start"][-1] == "plan"


def test_the_cut_model_loads_and_is_no_number_short(tmp_path: Path) -> None:
    from attar.settings import cache_folder

    _run({"steps": [{**HALF, "recover": False}], "dense": False}, tmp_path)
    recipe = Recipe.model_validate({**RECIPE, "compress": {"steps": [{**HALF, "recover": False}], "dense": False}})
    key = next(stage.key for stage in check(recipe, Path()).stages if stage.name == "compress")
    model = folder.load(cache_folder() / "artifacts" / f"compress-{key}")
    assert all(parameter.isfinite().all() for parameter in model.module.parameters())


@pytest.mark.parametrize(
    ("compress", "words"),
    [
        (["static_int8", HALF], "must stand before steps on the exported graph"),
        (["static_int8", {"use": "static_int8", "recover": True}], "recover: is for steps on the model"),
        ({"recover": {"minutes": 5}}, "compress.recover: is for steps that are solved"),
        ([{"use": "static_int8", "rounds": 2}], "rounds: is for steps that cut"),
        ([{"use": "vocabulary"}], "vocabulary does not fit image-classification. Fitting: "),
        (["static_int8", "static_int8"], "cannot work on what static_int8 leaves"),
    ],
)
def test_an_order_that_cannot_be_is_told_before_work(compress: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check(Recipe.model_validate({**RECIPE, "compress": compress}), Path())
