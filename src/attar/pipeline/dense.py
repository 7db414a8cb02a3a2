"""Train the smaller dense models that a compressed student stands beside: at equal bytes, and at equal milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.layers import find_stack
from attar.log import say
from attar.pipeline.names import of_kind
from attar.pipeline.target import cuts, steps_of
from attar.stages.compress import Steps, apply_all, steps_at
from attar.stages.dense import Dense, nearest, smaller
from attar.stages.dry import TEXTS, WARMUP, Cost, dry_cost
from attar.stages.export import export
from attar.stages.measure import Contender, measure_files
from attar.stages.solve import Wanted
from attar.store.artifacts import make_key
from attar.store.files import folder_bytes, read_json, remove, write_json
from attar.students import folder as students
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    from attar.pipeline.recipe import Recipe
    from attar.pipeline.works import Desk
    from attar.stages.distill import Origin

Learn = Callable[["Desk", ModelSettings, int], dict[str, Any]]
"""Train a model of some settings for some more steps than the student, and leave it at the desk."""


def wants_dense(recipe: Recipe) -> bool:
    """Tell whether a recipe's report has dense rows: where steps cut, of tasks whose bundle is a graph."""
    cut = any(map(cuts, recipe.compress.steps))
    return recipe.compress.dense and not recipe.writes and (cut or recipe.compress.to is not None)


def train_dense(desk: Desk, origin: Callable[[ModelSettings], Origin], learn: Learn) -> dict[str, Any]:
    """Choose the dense models, train each as the student was, for as many steps, and export it.

    Args:
        desk: of the stage.
        origin: returns what a model of some settings starts from.
        learn: trains it.

    Returns:
        The artifact's card: ``rows``, one a model: its name (and folder), what it equals, what it is, its curve.
    """
    more = sum(int(row.get("steps", 0)) for name in of_kind("compress", desk.inputs) for row in _damage(desk, name))
    rows, made = [], desk.work / "made"
    for name, (at, dense) in _chosen(desk, origin).items():
        own = desk.work / name
        say(f"  dense, {at}: {dense.words}")
        curve = made / name / "history.json"
        if not curve.is_file():
            card = learn(replace(desk, work=own, content=own / "model"), dense.settings, more)
            steps = _uncut(desk)
            _export(desk, own / "model", steps, own)
            write_json(own / "done" / "history.json", card["history"])
            remove(made / name)
            made.mkdir(parents=True, exist_ok=True)
            (own / "done").rename(made / name)
        rows.append({"name": name, "at": at, "words": dense.words, "expected": vars(dense.cost)})
        rows[-1]["history"] = read_json(curve)
    remove(desk.content)
    made.mkdir(parents=True, exist_ok=True)
    made.rename(desk.content)
    return {"rows": rows}


def _export(desk: Desk, source: Path, steps: Steps, work: Path) -> None:
    """Write model and bundle of a dense model into ``work / "done"``."""
    done = work / "done"
    remove(done)
    model = apply_all(students.load(source), desk.recipe.task, steps, desk.data())
    students.save(model, done / "model")
    scratch = work / "export"
    scratch.mkdir(parents=True, exist_ok=True)
    export(done / "model", desk.recipe.task, steps_at("export", steps), desk.data(), (scratch, done / "bundle"))


def _damage(desk: Desk, name: str) -> list[Mapping[str, Any]]:
    return list(desk.inputs[name].card["damage"])


def _uncut(desk: Desk) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the recipe's steps without those that cut: what a dense model shares."""
    steps = [*steps_of(desk.recipe, desk.inputs, "model"), *steps_of(desk.recipe, desk.inputs, "export")]
    return [(step.use, step.settings) for step in steps if not cuts(step)]


def _chosen(desk: Desk, origin: Callable[[ModelSettings], Origin]) -> dict[str, tuple[str, Dense]]:
    """Return the dense models by name, with what each equals; one where both are the same, none where none is known."""
    recipe, data, bundle = desk.recipe, desk.data(), desk.inputs["export"].folder
    steps = _uncut(desk)

    def cost(settings: ModelSettings) -> Cost:
        """Return what an untrained model's bundle costs."""
        work = desk.work / make_key(model=settings.model_dump(mode="json"))
        return dry_cost(origin(settings).make, recipe.task, steps, data, work)

    limit = desk.work / "limit.json"
    if not limit.is_file():  # a time that is taken again in another try could choose another model
        write_json(limit, {"bytes": folder_bytes(bundle), "p50": _p50(desk, bundle)})
    asked = read_json(limit)
    stack = find_stack(students.load(desk.inputs["student"].folder).module)
    candidates = smaller(recipe.student, None if stack is None else len(stack[2]))
    found = {
        "equal bytes": nearest(candidates, cost, Wanted(bytes=asked["bytes"])),
        "equal milliseconds": nearest(candidates, cost, Wanted(p50=asked["p50"])),
    }
    chosen: dict[str, tuple[str, Dense]] = {}
    for at, dense in found.items():
        if dense is None:
            continue
        same = next((name for name, (_, other) in chosen.items() if other.words == dense.words), None)
        if same is None:
            chosen["dense" if not chosen else "dense_2"] = (at, dense)
        else:
            chosen[same] = (f"{chosen[same][0]} and {at.removeprefix('equal ')}", dense)
    return chosen


def _p50(desk: Desk, bundle: Path) -> float:
    """Return the milliseconds of the compressed model's answers, timed as dense candidates are."""
    found = desk.data().validation
    few = found.take(np.arange(min(TEXTS, len(found))))
    contender = Contender("exported", "bundle", bundle)
    timed = measure_files([contender], desk.recipe.task, few, TEXTS, WARMUP, 0)["exported"]
    return float(timed["latency_ms"]["p50"])
