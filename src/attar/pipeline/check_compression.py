"""Check the key ``compress``: which steps fit the task, their order, and what the student's shapes allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attar import catalog
from attar.errors import AttarError, Mistake
from attar.pipeline.compress_keys import SHARES, RecoverSettings, Step
from attar.pipeline.recipe import Recipe
from attar.pipeline.target import PLANNED, cuts
from attar.settings import cache_folder
from attar.sources import reference, weights
from attar.students.folder import kind_of

EVERYTHING = frozenset({"weights"})
"""Steps after which no other step may work on the model or the graph."""
GRAPHS = EVERYTHING | {"static_int8", "dynamic_int8"}
AFTER = {
    **dict.fromkeys(("low_rank", "weights", "depth", "width", "vocabulary"), EVERYTHING | {"low_rank"}),
    **dict.fromkeys(("static_int8", "dynamic_int8"), GRAPHS),
}
"""Step -> those that it cannot follow."""
BUNDLES = {True: ("hf", "onnx"), False: ("onnx",)}
"""Whether a task writes -> the formats of its bundle."""


def compression_mistakes(recipe: Recipe, base: Path) -> Iterator[Mistake]:
    """Yield what is wrong with the compression and the bundle's format, as far as can be told before any work."""
    if recipe.export.to not in BUNDLES[recipe.writes]:
        wanted = " or ".join(BUNDLES[recipe.writes])
        yield Mistake("export.to", f"must be {wanted} for {recipe.task}, got {recipe.export.to}.")
    if recipe.compress.to is not None and recipe.task not in PLANNED:
        yield Mistake("compress.to", f"is for {', '.join(PLANNED)}, and the task is {recipe.task}. Give steps.")
    found = list(_order_mistakes(recipe))
    yield from found
    if not found:
        yield from _shape_mistakes(recipe, base)


def _order_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.compress.to is None and recipe.compress.recover != RecoverSettings():
        yield Mistake("compress.recover", "is for steps that are solved from a target (to); give it beside a step.")
    seen: set[str] = set()
    exported = False
    for place, step in enumerate(recipe.compress.steps):
        kind = catalog.entry("compressor", step.use)
        where = _where(place)
        if recipe.task not in kind.tasks:
            fitting = [
                name for name in catalog.table("compressor") if recipe.task in catalog.entry("compressor", name).tasks
            ]
            yield Mistake(where, f"{step.use} does not fit {recipe.task}. Fitting: {', '.join(fitting)}.")
        if step.use in seen and not cuts(step) and step.use not in AFTER.get(step.use, EVERYTHING):
            yield Mistake(where, f"{step.use} stands twice; once is enough.")
        if kind.at == "model" and exported:
            yield Mistake(where, f"{step.use} works on the model and must stand before steps on the exported graph.")
        if step.rounds > 1 and (not cuts(step) or step.use == "low_rank" or not set(SHARES) & set(step.settings)):
            yield Mistake(f"{where}.rounds", f"is for steps that cut a share away; {step.use} is done at once here.")
        if kind.at == "export" and step.recover:
            yield Mistake(f"{where}.recover", f"is for steps on the model; {step.use} works on the exported graph.")
        for earlier in sorted(seen & AFTER.get(step.use, EVERYTHING)):
            yield Mistake(
                where, f"{step.use} cannot work on what {earlier} leaves. Put it before {earlier}, or leave it out."
            )
        exported = exported or kind.at == "export"
        seen.add(step.use)


def _shape_mistakes(recipe: Recipe, base: Path) -> Iterator[Mistake]:
    """Follow the student's configuration through the steps; nothing is known of weights that are not here yet."""
    config = student_config(recipe, base)
    if config is None:
        return
    for place, step in enumerate(recipe.compress.steps):
        if catalog.entry("compressor", step.use).at == "export":
            continue
        for part in step.parts():
            try:
                config = _after(part, config, recipe.export.to)
            except AttarError as error:
                yield Mistake(_where(place), str(error))
                return


def _after(step: Step, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
    kind = catalog.entry("compressor", step.use)
    after: Mapping[str, Any] = kind(kind.Settings(**step.settings)).legal(config, to)
    return after


def student_config(recipe: Recipe, base: Path) -> Mapping[str, Any] | None:
    """Return the configuration that the student begins with, fewer layers counted in; empty for a network without one.

    None where its weights are not here yet.
    """
    own = recipe.student
    source = recipe.teacher if own.from_teacher else own
    if source.model is None or kind_of(source) in ("net", "timm", "torchvision"):
        return {}
    found = reference.local(reference.parse(source.model, base), source.sha256, cache_folder())
    if found is None:
        return None
    try:
        config = weights.model_config(found)
    except AttarError:  # a folder that is none is told of where the model is
        return None
    count = own.layer_count or (source.layer_count if own.from_teacher else None)
    return {**config, "num_hidden_layers": count} if count else config


def _where(place: int) -> str:
    return f"compress[{place}]"
