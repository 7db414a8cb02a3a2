"""Weights and temperatures that change over training: what a recipe may hold, and what a record can serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.in_process import made

from attar.errors import RecipeError
from attar.pipeline.check import check
from attar.pipeline.load import validate
from attar.pipeline.recipe import Recipe

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 4, "batch_size": 20, "learning_rate": 0.01, "precision": "float32", "validations": 1}
FADING = {"use": "forward_kl", "weight": {"start": 1, "end": 0}, "temperature": {"start": 4, "end": 1}}
GROWING = {"use": "cross_entropy", "weight": {"start": 0, "end": 1, "until": 0.5, "shape": "cosine"}}
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 80, "validation": 20, "test": 20},
    "teacher": {"build": {"net": "mlp", "widths": [8]}, "train": TRAIN, "precision": "float32"},
    "student": {"build": {"net": "mlp", "widths": [4]}},
    "distill": {**TRAIN, "objective": [FADING, GROWING]},
}


def _body(*objective: Any, **distill: Any) -> dict[str, Any]:
    return {**RECIPE, "distill": {**TRAIN, **distill, "objective": list(objective)}}


def test_ramps_of_weight_and_temperature_are_trained_by(tmp_path: Path) -> None:
    recipe = validate(RECIPE, "recipe.yaml")
    check(recipe, tmp_path)
    done = made("student", tmp_path, recipe)
    history = done["student"].card["history"]
    assert len(history) == 4
    shares = [row for row in history if "share of forward_kl" in row]
    assert shares
    assert shares[-1]["share of cross_entropy"] > 0
    plain = made("student", tmp_path, _body({"use": "forward_kl", "temperature": 4}))
    assert plain["record"].key == done["record"].key  # what a full record holds serves every temperature
    # the first step is the one of the ramp's beginning: weight 1, temperature 4, and no cross-entropy yet
    assert history[0]["loss"] == pytest.approx(plain["student"].card["history"][0]["loss"], rel=1e-6)
    assert history[-1]["loss"] != pytest.approx(plain["student"].card["history"][-1]["loss"], rel=1e-2)


def test_a_ramp_that_does_not_change_is_the_number(tmp_path: Path) -> None:
    flat = {"use": "forward_kl", "weight": {"start": 0.5, "end": 0.5}, "temperature": {"start": 2, "end": 2}}
    number = {"use": "forward_kl", "weight": 0.5, "temperature": 2}
    losses = [
        [row["loss"] for row in made("student", tmp_path, _body(one))["student"].card["history"]]
        for one in (flat, number)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_ramp_changes_the_students_key_alone(tmp_path: Path) -> None:
    first, second = (
        {stage.name: stage.key for stage in check(Recipe.model_validate(body), tmp_path).stages}
        for body in (_body(FADING), _body({**FADING, "temperature": {"start": 4, "end": 2}}))
    )
    changed = {name for name, key in first.items() if second[name] != key}
    assert changed == {"student", "compress", "export", "measure"}


def test_ramps_survive_the_recipe_in_a_runs_folder(tmp_path: Path) -> None:
    from attar.pipeline.execute import recipe_text
    from attar.pipeline.load import parse

    recipe = validate(RECIPE, "recipe.yaml")
    again = validate(parse(recipe_text(recipe, tmp_path), "recipe.yaml"), "recipe.yaml")
    stages = [{stage.name: stage.key for stage in check(one, tmp_path).stages} for one in (recipe, again)]
    assert stages[0] == stages[1]


@pytest.mark.parametrize(
    ("term", "mistakes"),
    [
        (
            {"temperature": {"start": 4, "ende": 1}},
            {
                "temperature.end": "is required (value from `until` on).",
                "temperature.ende": "is not a key here. Did you mean 'end'?",
            },
        ),
        ({"temperature": {"start": 4, "end": 0}}, {"temperature.end": "must be > 0, got 0."}),
        ({"temperature": {"start": 2000, "end": 1}}, {"temperature.start": "must be <= 1000, got 2000."}),
        ({"temperature": {"start": "warm", "end": 1}}, {"temperature.start": "must be a number, got 'warm'."}),
        ({"temperature": {"start": 4, "end": 1, "until": 0}}, {"temperature.until": "must be > 0, got 0."}),
        (
            {"temperature": {"start": 4, "end": 1, "shape": "square"}},
            {"temperature.shape": "must be one of 'linear' or 'cosine', got 'square'."},
        ),
        (
            {"temperature": {"start": 4, "end": 1}, "temprature": 1},
            {"temprature": "is not a key here. Did you mean 'temperature'?"},
        ),
        ({"temperature": "hot"}, {"temperature": "must be a number, got 'hot'."}),
        ({"temperature": 0}, {"temperature": "must be > 0, got 0."}),
        (
            {"weight": {"start": 1, "ende": 0}},
            {
                "weight.end": "is required (value from `until` on).",
                "weight.ende": "is not a key here. Did you mean 'end'?",
            },
        ),
        ({"weight": {"start": -1, "end": 0}}, {"weight.start": "must be >= 0, got -1."}),
        ({"weight": {"start": 1, "end": 2e6}}, {"weight.end": "must be <= 1e+06, got 2000000.0."}),
        ({"weight": "much"}, {"weight": "must be a number, got 'much'."}),
        ({"weight": -1}, {"weight": "must be >= 0, got -1."}),
    ],
    ids=str,
)
def test_a_wrong_ramp_is_told_with_its_path(term: Mapping[str, Any], mistakes: Mapping[str, str]) -> None:
    body = _body({"use": "cross_entropy"}, {"use": "forward_kl", **term})
    with pytest.raises(RecipeError) as caught:
        validate(body, "recipe.yaml")
    said = {mistake.where: mistake.message for mistake in caught.value.mistakes}
    wanted = {f"distill.objective[1].{where}": message for where, message in mistakes.items()}
    assert said == wanted


def test_an_objective_without_temperature_takes_no_ramp_of_it() -> None:
    body = _body({"use": "cross_entropy", "temperature": {"start": 4, "end": 1}})
    with pytest.raises(RecipeError, match=r"distill\.objective\[0\]\.temperature: is not a key here"):
        validate(body, "recipe.yaml")


def test_a_ramp_given_alone_is_told_without_a_place() -> None:
    body = {**RECIPE, "distill": {**TRAIN, "objective": {"use": "forward_kl", "temperature": {"start": 1}}}}
    with pytest.raises(RecipeError, match=r"distill\.objective\.temperature\.end: is required"):
        validate(body, "recipe.yaml")


def test_weights_that_are_never_above_zero_pull_nowhere(tmp_path: Path) -> None:
    said = _mistakes(_body({"use": "forward_kl", "weight": {"start": 0, "end": 0}}), tmp_path)
    assert said == {"distill.objective": "must have at least one weight > 0."}


@pytest.mark.parametrize("codec", ["topk", "sampled"])
def test_a_record_at_single_temperatures_serves_no_ramp_of_them(codec: str, tmp_path: Path) -> None:
    said = _mistakes(_body(FADING, record=codec), tmp_path)
    assert said == {
        "distill.objective[0].temperature": f"must be one number: a {codec} record holds single temperatures, and a "
        "ramp passes through all between. Or set distill.record to full."
    }
    check(Recipe.model_validate(_body({**FADING, "temperature": 4}, record=codec)), tmp_path)


@pytest.mark.parametrize("codec", ["topk", "sampled"])
def test_a_temperature_that_the_record_lacks_is_refused(codec: str, tmp_path: Path) -> None:
    record = {"use": codec, "temperatures": [1, 2]}
    hot, default = {"use": "forward_kl", "temperature": 3}, {"use": "forward_kl"}
    assert _mistakes(_body(default, hot, record=record), tmp_path) == {
        "distill.objective[1].temperature": "must be one that distill.record.temperatures holds (1, 2), got 3. Add it "
        "there, or leave that key out."
    }
    only_one = _mistakes(_body(default, record={"use": codec, "temperatures": [1]}), tmp_path)
    assert "(1), got 2" in only_one["distill.objective[0].temperature"]
    for fine in ({"use": codec, "temperatures": [1, 2, 3]}, codec, "full"):
        check(Recipe.model_validate(_body(default, hot, record=fine)), tmp_path)


@pytest.mark.parametrize(
    ("record", "where", "said"),
    [
        ("topq", "distill.record.use", "There is no codec 'topq'. Did you mean 'topk'?"),
        ({"use": "topk", "temperatures": 1}, "distill.record.temperatures", "must be a list, got 1."),
        ({"use": "topk", "temperatures": [0]}, "distill.record.temperatures[0]", "must be > 0, got 0."),
        ({"use": "topk", "temperature": [1]}, "distill.record.temperature", "is not a key here."),
        ({"use": "auto", "k": 3}, "distill.record.k", "is not a key here."),
        ({"k": 3}, "distill.record.use", "is required (the registered name)."),
    ],
    ids=str,
)
def test_a_wrong_record_is_told_with_its_path(record: Any, where: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(_body({"use": "forward_kl"}, record=record), "recipe.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.where == where
    assert mistake.message.startswith(said)


def test_what_a_text_model_learns_of_a_live_teacher_may_have_ramps(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,title\none,a\ntwo,b\nthree,c\nfour,d\n", encoding="utf-8")
    body: dict[str, Any] = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 1, "test": 1},
        "teacher": {"model": str(llama_folder), "train": {}},
        "student": {"model": "teacher", "layers": 1},
        "distill": {"objective": [FADING], "on_policy": {}},
    }
    check(Recipe.model_validate(body), tmp_path)
    body["distill"].pop("on_policy")
    assert "a topk record" in _mistakes(body, tmp_path)["distill.objective[0].temperature"]


@pytest.mark.parametrize("record", ["auto", "full"])
def test_scores_uncentered_are_refused_of_a_record(record: str, tmp_path: Path, llama_folder: Path) -> None:
    raw = {"use": "logit_mse", "center": False}
    said = _mistakes(_body({"use": "forward_kl"}, raw, record=record), tmp_path)
    assert said == {
        "distill.objective[1].center": "must be true: a record holds log-probabilities, in which a constant of all "
        "scores is lost. Leave the key out, or ask the teacher live with distill.on_policy."
    }
    check(Recipe.model_validate(_body({"use": "logit_mse"}, record=record)), tmp_path)
    (tmp_path / "pairs.csv").write_text("text,title\none,a\ntwo,b\nthree,c\nfour,d\n", encoding="utf-8")
    body: dict[str, Any] = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 1, "test": 1},
        "teacher": {"model": str(llama_folder), "train": {}},
        "student": {"model": "teacher", "layers": 1},
        "distill": {"objective": [raw], "on_policy": {}},
    }
    check(Recipe.model_validate(body), tmp_path)


def _mistakes(body: Mapping[str, Any], base: Path) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), base)
    return {mistake.where: mistake.message for mistake in caught.value.mistakes}
