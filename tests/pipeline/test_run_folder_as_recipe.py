"""A run's folder is a recipe: what a run writes down of itself runs again."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from attar.pipeline.check import check
from attar.pipeline.execute import recipe_text
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe, parse, ready_recipes, validate
from attar.pipeline.recipe import Recipe

SERVED: dict[str, Any] = {
    "task": "text-classification",
    "data": {"source": "texts.csv", "text": "text", "label": "label", "labels": ["bad", "good"]},
    "teacher": {"endpoint": {"base_url": "http://127.0.0.1:8/v1", "model": "m"}},
    "student": {"model": "model"},
}


@pytest.mark.parametrize("name", sorted(ready_recipes()))
def test_written_recipe_is_the_same_job(name: str, tmp_path: Path) -> None:
    recipe, base = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(recipe_text(recipe, base), encoding="utf-8")
    again, folder = load_recipe(str(tmp_path))
    assert again == recipe
    assert {name: stage.key for name, stage in build(again, folder).items()} == {
        name: stage.key for name, stage in build(recipe, base).items()
    }
    assert [stage.name for stage in check(again, folder).stages] == list(build(recipe, base))


def _again(recipe: Recipe) -> Recipe:
    return validate(parse(recipe_text(recipe, Path()), "recipe.yaml"), "recipe.yaml")


def test_a_null_that_is_not_the_default_is_written_down() -> None:
    endpoint = {**SERVED["teacher"]["endpoint"], "key_env": None, "body": {"stop": None}}
    recipe = validate({**SERVED, "teacher": {"endpoint": endpoint}}, "recipe.yaml")
    written = yaml.safe_load(recipe_text(recipe, Path()))
    assert written["teacher"]["endpoint"]["key_env"] is None
    assert written["teacher"]["endpoint"]["body"] == {"stop": None}
    assert "max_dollars" not in written["teacher"]["endpoint"]
    assert "build" not in written["student"]
    assert _again(recipe) == recipe


def test_a_null_among_an_algorithms_own_settings_is_written_down() -> None:
    plain = validate(SERVED, "recipe.yaml")
    first = plain.distill.objective[0]
    term = type(first).model_validate({"use": first.use, "temperature": None})
    distill = plain.distill.model_copy(update={"objective": (term,)})
    written = yaml.safe_load(recipe_text(plain.model_copy(update={"distill": distill}), Path()))
    assert written["distill"]["objective"] == [{"use": "forward_kl", "weight": 1.0, "temperature": None}]


def _nullable(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if type(None) in typing.get_args(field.annotation) and field.default is not None:
            yield path + name
        for inner in _models(field.annotation):
            yield from _nullable(inner, f"{path}{name}.")


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in typing.get_args(kind):
        yield from _models(part)


@pytest.mark.parametrize("path", sorted(set(_nullable(Recipe))))
def test_every_key_whose_null_is_not_its_default_keeps_it(path: str) -> None:
    *parents, last = path.split(".")
    body: dict[str, Any] = {**SERVED, "teacher": {"endpoint": dict(SERVED["teacher"]["endpoint"])}}
    if "writer" in parents:
        body["prompt"] = {"writer": {"endpoint": {**SERVED["teacher"]["endpoint"], "mode": "text"}}}
    place = body
    for parent in parents:
        place = place.setdefault(parent, {} if parent != "steps" else [{"use": "vocabulary"}])
        place = place[0] if isinstance(place, list) else place
    place[last] = None
    recipe = validate(body, "recipe.yaml")
    assert _again(recipe) == recipe
