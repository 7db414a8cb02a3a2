"""Check what a student learns by: objectives that fit the teacher, temperatures that its record holds, the prior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attar import catalog
from attar.core.nouns import suits
from attar.core.places import FAMILIES
from attar.errors import AttarError, Mistake
from attar.objectives.logit_mse import LogitMSE
from attar.objectives.ramp import Ramp
from attar.pipeline.check_chain import models_of
from attar.pipeline.recipe import Recipe, Term
from attar.students.prior import target_prior


def distill_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield what is wrong with the objectives and the prior."""
    terms = recipe.distill.objective
    if not any(_most(term) > 0 for term in terms):
        yield Mistake("distill.objective", "must have at least one weight > 0.")
    for place, term in enumerate(terms):
        where = f"distill.objective[{place}]"
        yield from _signal_mistakes(recipe, where, term)
        yield from _temperature_mistakes(recipe, where, term)
        yield from _center_mistakes(recipe, where, term)
        yield from _layer_mistakes(recipe, where, term)
    yield from _prior_mistakes(recipe)
    if recipe.distill.record_features:
        yield from _feature_mistakes(recipe)


def _most(term: Term) -> float:
    """Return an objective's largest weight over training."""
    return max(term.weight.start, term.weight.end) if isinstance(term.weight, Ramp) else term.weight


def _signal_mistakes(recipe: Recipe, where: str, term: Term) -> Iterator[Mistake]:
    kind, gives = catalog.entry("objective", term.use), recipe.gives
    if not suits(kind, gives):
        fitting = [name for name in catalog.table("objective") if suits(catalog.entry("objective", name), gives)]
        yield Mistake(
            where,
            f"{term.use} needs {', '.join(sorted(kind.needs - gives))}, which this teacher does not give. "
            f"Fitting: {', '.join(fitting)}.",
        )
    micro = recipe.distill.micro_batch_size
    if getattr(kind, "whole_batch", False) and micro is not None and micro < recipe.distill.batch_size:
        yield Mistake(
            "distill.micro_batch_size",
            f"must be left out with {term.use}, which compares examples of a batch with each other; got {micro}.",
        )


def _temperature_mistakes(recipe: Recipe, where: str, term: Term) -> Iterator[Mistake]:
    """Yield a temperature at which the record says nothing: what is left out of a row is kept at single ones."""
    kind, (name, settings) = catalog.entry("objective", term.use), recipe.codec
    kept = settings.get("temperatures")
    if kept is None or recipe.distill.on_policy is not None or "logits" not in kind.needs:
        return
    fields = kind.Settings.model_fields
    if "temperature" not in fields:
        return
    asked = term.settings.get("temperature", fields["temperature"].default)
    if isinstance(asked, Mapping):
        yield Mistake(
            f"{where}.temperature",
            f"must be one number: a {name} record holds single temperatures, and a ramp passes through all between. "
            "Or set distill.record to full.",
        )
    elif float(asked) not in [float(one) for one in kept]:
        yield Mistake(
            f"{where}.temperature",
            f"must be one that distill.record.temperatures holds ({', '.join(f'{one:g}' for one in kept)}), got "
            f"{asked:g}. Add it there, or leave that key out.",
        )


def _center_mistakes(recipe: Recipe, where: str, term: Term) -> Iterator[Mistake]:
    """Yield a comparison of the scores themselves, of which every record has lost a constant."""
    settings = catalog.entry("objective", term.use).Settings(**_fixed(term.settings))
    if recipe.distill.on_policy is None and isinstance(settings, LogitMSE.Settings) and not settings.center:
        yield Mistake(
            f"{where}.center",
            "must be true: a record holds log-probabilities, in which a constant of all scores is lost. Leave the key "
            "out, or ask the teacher live with distill.on_policy.",
        )


def _layer_mistakes(recipe: Recipe, where: str, term: Term) -> Iterator[Mistake]:
    """Yield a layer by its number in a network that has none, before a teacher is trained for it."""
    kind = catalog.entry("objective", term.use)
    if "features" not in kind.needs:
        return
    objective = kind(kind.Settings(**_fixed(term.settings)))
    built = {name for name, settings in models_of(recipe) if settings.build is not None}
    for model, names in (("student", objective.student_features), ("teacher", objective.teacher_features)):
        numbered = [name for name in sorted(names) if name.partition(":")[0] in FAMILIES and ":" in name]
        if model in built and numbered:
            yield Mistake(
                f"{where}.pairs",
                f"must name other features than {numbered[0]}: a network from {model}.build has no layer numbers. "
                "Give pairs of map, pooled or paths of modules.",
            )
            return


def _feature_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield why there are no features to record."""
    where = "distill.record_features"
    if recipe.served or recipe.writes or recipe.prompted:
        why = "is behind a server" if recipe.served else "writes" if recipe.writes else "labels by a prompt"
        yield Mistake(where, f"needs a classifier as teacher; this one {why}, and gives no features. Leave it out.")
    elif not recipe.reads_features:
        yield Mistake(
            where,
            "needs an objective that compares features, such as hidden. Add one to distill.objective, or leave it out.",
        )


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an objective's settings without what changes over training."""
    return {name: value for name, value in settings.items() if name != "temperature"}


def _prior_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    prior = recipe.distill.prior
    if prior == "none":
        return
    if recipe.writes:
        yield Mistake("distill.prior", f"is for tasks with labels; {recipe.task} has none.")
    elif isinstance(prior, tuple):
        try:
            target_prior(prior, len(recipe.data.labels or prior))
        except AttarError as error:
            yield Mistake("distill.prior", str(error).removeprefix("prior "))
