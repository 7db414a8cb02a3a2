"""Tell which keys of a prompt a recipe's teacher reads, so that the others are refused and in no stage's key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attar.errors import Mistake
from attar.pipeline.recipe import Recipe
from attar.prompts.bank import PromptSettings

WRITER = frozenset({"template", "input", "target", "chat"})
SERVED = WRITER | {"words"}


def prompt_keys(recipe: Recipe) -> frozenset[str]:
    """Return the keys of ``prompt.teacher`` that do something: all for a prompt that is searched for."""
    if recipe.served:
        return SERVED
    return WRITER if recipe.writes else frozenset(PromptSettings.model_fields)


def prompt_read(recipe: Recipe) -> dict[str, Any]:
    """Return what the teacher reads of ``prompt.teacher``, as JSON values for a stage's key."""
    return recipe.prompt.teacher.model_dump(mode="json", include=set(prompt_keys(recipe)))


def prompt_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield a mistake for each key of ``prompt.teacher`` that was set and would do nothing."""
    prompt, read = recipe.prompt.teacher, prompt_keys(recipe)
    why = "a model behind a server reads the recipe's own prompt" if recipe.served else f"{recipe.task} has one prompt"
    for name, field in PromptSettings.model_fields.items():
        if name not in read and getattr(prompt, name) != field.default:  # a run's recipe.yaml spells the default out
            yield Mistake(f"prompt.teacher.{name}", f"does nothing here: {why}. Leave it out.")
