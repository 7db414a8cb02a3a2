"""Tune a recipe's prompt: do the stages that finding it needs, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.pipeline.check import check
from attar.pipeline.execute import execute
from attar.pipeline.graph import build
from attar.pipeline.recipe import Recipe
from attar.stages.tune import load
from attar.store.files import write_bytes

STAGE = "prompt"
"""The stage that finds the teacher's prompt."""
FILE = "prompt.json"
"""What that stage leaves: the prompt, the recipe's own, and the facts."""


@dataclass(frozen=True)
class TuneResult:
    """Hold the prompt that was found.

    Args:
        folder: of the run; it holds the prompt and a table of all that were tried.
        prompt: the one to use; the recipe's own where no gain was proven.
        own: the recipe's own.
        facts: what was tried, gained and spent: the keys of ``prompt.teacher`` in a run's ``summary.json``.
    """

    folder: Path
    prompt: TextPrompt
    own: TextPrompt
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the facts with both prompts, the kept one as text, and what changed, as JSON values."""
        shown = {"prompt": self.prompt.to_json(), "own": self.own.to_json()}
        return {**self.facts, **shown, "text": str(self.prompt), "diff": self.own.diff(self.prompt)}


Report = Callable[[TuneResult], None]


def tune_loaded(recipe: Recipe, base: Path, folder: Path, report: Report) -> TuneResult:
    """Find the prompt of a recipe's teacher; what it takes is shared with the whole run of the recipe.

    Args:
        recipe: a valid recipe.
        base: the folder its paths are relative to.
        folder: the run's folder; the same call goes on in it after a kill.
        report: writes for people what was found into the folder.

    Raises:
        AttarError: the teacher reads no prompt that can be searched for, or the recipe has another mistake.
    """
    check(recipe, base)
    if STAGE not in build(recipe, base):
        raise AttarError(f"{recipe.name} has no prompt to search for: {_why(recipe)}")
    done = execute(recipe, base, folder, last=STAGE)[STAGE].folder
    write_bytes(folder / FILE, (done / FILE).read_bytes())
    tuned = load(done)
    found = TuneResult(folder, tuned.prompt, tuned.own, tuned.facts)
    report(found)
    return found


def _why(recipe: Recipe) -> str:
    """Say why the teacher's prompt is not searched for, and what to do."""
    if recipe.served:
        return (
            "a model behind a server is paid for each call, so it reads the recipe's own prompt unless "
            "prompt.teacher.budget says what the search may spend. Set a budget."
        )
    if recipe.writes:
        return (
            "a teacher that is trained first learns the recipe's own prompt, and one that is not needs target texts "
            "on validation. Leave teacher.train out and allow them (data.gold)."
        )
    return "its teacher is a classifier, which reads none. Name a language model as teacher.model, without train."
