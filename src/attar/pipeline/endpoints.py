"""Ask a teacher behind a server: which one, with which prompt, from which ledger, at which price."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.core.examples import Examples
from attar.core.prompt import TextPrompt
from attar.pipeline.prompt_keys import prompt_read
from attar.pipeline.recipe import Recipe
from attar.prompts.bank import own_prompt
from attar.seeds import derive
from attar.teachers.endpoint import EndpointTeacher
from attar.teachers.endpoint_settings import EndpointSettings


def served_teacher(
    recipe: Recipe, labels: Sequence[str], cache: Path, prompt: TextPrompt | None = None
) -> EndpointTeacher:
    """Return the teacher behind the recipe's server; nothing is sent before it is asked.

    Args:
        recipe: with ``teacher.endpoint``.
        labels: names of the classes.
        cache: attar's cache, where the ledger lies: one for each server and model, so that no run pays twice.
        prompt: what it reads; the recipe's own by default.

    Raises:
        AttarError: the label words or the prompt do not fit.
    """
    settings = recipe.teacher.endpoint
    if settings is None:
        raise ValueError("the recipe's teacher is no server")
    prompt = prompt or own_prompt(recipe.prompt.teacher, labels)
    return EndpointTeacher(settings, prompt, ledger_path(settings, cache), derive(recipe.seed, "endpoint"))


def ledger_path(settings: EndpointSettings, cache: Path) -> Path:
    """Return where the answers of a server's model are kept."""
    name = hashlib.sha256(f"{settings.base_url}\n{settings.model}".encode()).hexdigest()[:24]
    return cache / "ledgers" / f"{name}.jsonl"


def endpoint_key(recipe: Recipe) -> dict[str, Any]:
    """Return what a served teacher's answers depend on: address, model, parameters, prompt; never the key."""
    settings = recipe.teacher.endpoint
    if settings is None:
        return {}
    return {
        "endpoint": settings.identity(),
        "api": settings.api,
        "prompt": prompt_read(recipe),
        "sampled": [settings.temperature, recipe.seed] if settings.temperature else None,
    }


def ask_ahead(teacher: EndpointTeacher, splits: Sequence[Examples]) -> None:
    """Ask for all examples at once, with the full number of calls on their way; the record then reads the ledger."""
    for examples in splits:
        teacher.prepare(examples)
