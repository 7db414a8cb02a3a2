"""Plan the compression of a recipe that gives a target: which steps meet it, known before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attar import catalog
from attar.log import say
from attar.pipeline.compress_keys import Step
from attar.stages.dry import Cost, dry_cost
from attar.stages.solve import Steps, Wanted, ladders_of, solve
from attar.store.artifacts import Artifact, make_key
from attar.store.files import read_json, remove, write_json

if TYPE_CHECKING:
    from attar.pipeline.recipe import Recipe
    from attar.pipeline.works import Desk
    from attar.stages.distill import Origin

PLANNED = {"text-classification": 3, "image-classification": 1}
"""Task -> the most steps on the model that a plan has."""
FILE = "plan.json"


def plan_steps(desk: Desk, origin: Origin) -> dict[str, Any]:
    """Find the steps and leave them as the stage's result.

    Args:
        desk: of the stage.
        origin: what the student starts from.

    Raises:
        AttarError: no steps meet the target.
    """
    recipe, data = desk.recipe, desk.data()
    target = recipe.compress.to
    if target is None:
        raise ValueError("a plan needs a target")

    def cost(steps: Steps) -> Cost:
        """Return what steps cost, and say it."""
        found = dry_cost(origin.make, recipe.task, steps, data, desk.work / make_key(steps=repr(steps)))
        named = ", ".join(name for name, _ in steps) or "no step"
        say(f"  {named}: {found.bytes / 1e6:.2f} MB, {found.p50:.2f} ms")
        return found

    solved = solve(ladders_of(recipe.task, origin.make()), cost, Wanted(target.bytes, target.p50))
    remove(desk.content)
    desk.content.mkdir(parents=True)
    write_json(desk.content / FILE, [[name, dict(settings)] for name, settings in solved.steps])
    tried = [{"steps": [[n, dict(s)] for n, s in steps], **vars(cost)} for steps, cost in solved.tried]
    return {
        "asked": target.model_dump(),
        "steps": [[n, dict(s)] for n, s in solved.steps],
        "expected": vars(solved.cost),
        "tried": tried,
    }


def steps_of(recipe: Recipe, inputs: Mapping[str, Artifact], at: str) -> tuple[Step, ...]:
    """Return the steps at ``"model"`` or ``"export"``: those of the recipe, or those that were planned.

    Args:
        recipe: the recipe.
        inputs: stage name -> artifact, the plan's among them if there is one.
        at: where steps work.
    """
    if "plan" not in inputs:
        return recipe.compress.on_model if at == "model" else recipe.compress.on_graph
    found = read_json(inputs["plan"].folder / FILE)
    own = {"recover": recipe.compress.recover.model_dump()}
    steps = [Step(use=name, **settings) for name, settings in found]
    here = [step for step in steps if catalog.entry("compressor", step.use).at == at]
    return tuple(Step(use=step.use, **step.settings, **own) if cuts(step) else step for step in here)


def cuts(step: Step) -> bool:
    """Tell whether a step changes what the model computes: it is then measured, and recovers, by itself."""
    return bool(getattr(catalog.entry("compressor", step.use), "cuts", False))
