"""Tell which keys of a prompt a recipe's teacher reads, so that the others are refused and in no stage's key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attar.errors import Mistake
from attar.pipeline.recipe import Recipe
from attar.prompts.settings import PromptSettings

ASKED = frozenset({"template", "instruction", "input", "target", "chat"})
"""Keys of a prompt that is read as it stands."""
LABELED = frozenset({"words", "calibration", "criterion"})
"""Keys of a prompt that names labels."""


def prompt_keys(recipe: Recipe) -> frozenset[str]:
    """Return the keys of ``prompt.teacher`` that do something: all for a prompt that is searched for."""
    everything = frozenset(PromptSettings.model_fields)
    if recipe.writes:
        return everything - LABELED if recipe.finds_prompt else ASKED
    return ASKED | {"words"} if recipe.served and not recipe.finds_prompt else everything


def prompt_read(recipe: Recipe) -> dict[str, Any]:
    """Return what the teacher reads of ``prompt.teacher``, as JSON values for a stage's key."""
    return recipe.prompt.teacher.model_dump(mode="json", include=set(prompt_keys(recipe)))


def prompt_asked(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe's own prompt is made of, which a student that writes reads, as JSON values."""
    return recipe.prompt.teacher.model_dump(mode="json", include=set(ASKED))


def prompt_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield a mistake for each key of ``prompt.teacher`` that was set and would do nothing."""
    prompt, read = recipe.prompt.teacher, prompt_keys(recipe)
    if recipe.served:
        why = "a search on a server is paid, so it needs mode: labels and prompt.teacher.budget"
    else:
        why = "a teacher that is trained, or has no gold validation texts, reads the recipe's own prompt"
    for name, field in PromptSettings.model_fields.items():
        if name not in read and getattr(prompt, name) != field.default:  # a run's recipe.yaml spells the default out
            yield Mistake(f"prompt.teacher.{name}", f"does nothing here: {why}. Leave it out.")
