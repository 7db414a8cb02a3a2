"""A run's folder is a recipe: what a run writes down of itself runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.check import check
from attar.pipeline.execute import recipe_text
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe, ready_recipes


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
