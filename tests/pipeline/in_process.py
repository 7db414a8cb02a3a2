"""Run recipes as tests can afford it: nothing is timed in a process of its own, or only some stages are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from attar.core.examples import Examples
from attar.pipeline import quality
from attar.pipeline.execute import _finish, _Site
from attar.pipeline.graph import build
from attar.pipeline.recipe import Recipe
from attar.settings import cache_folder
from attar.stages.measure import Contender
from attar.stages.worker import BundleRunner
from attar.store.artifacts import Artifact, Store
from attar.store.journal import Journal


def untimed(patch: pytest.MonkeyPatch) -> None:
    """Do not measure speed and memory of classifiers: that takes a fresh process for each model."""

    def answers(contenders: Sequence[Contender], task: str, test: Examples, *given: int) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {one.name: {"peak_rss_bytes": 1} for one in contenders}
        bundle = next(one for one in contenders if one.kind == "bundle")
        found[bundle.name]["scores"] = BundleRunner({"folder": str(bundle.folder), "threads": 1}).scores(test.inputs)
        return found

    patch.setattr(quality, "measure_files", answers)


def made(last: str, home: Path, recipe: Recipe | Mapping[str, Any]) -> dict[str, Artifact]:
    """Do the stages of a recipe up to one of them; what is stored is not done again."""
    recipe, store = Recipe.model_validate(recipe), Store(cache_folder())
    done: dict[str, Artifact] = {}
    for stage in build(recipe, home).values():
        inputs = {parent: done[parent] for parent in stage.parents}
        done[stage.name] = _finish(stage, inputs, _Site(recipe, home, store, Journal(home / "journal.jsonl"), ""))
        if stage.name == last:
            return done
    raise AssertionError(f"no stage {last}")
