"""Let a teacher be heard by a student whose tokenizer is another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attar import catalog
from attar.core.nouns import Signal, Teacher, suits
from attar.errors import AttarError
from attar.log import say
from attar.pipeline.recipe import Recipe
from attar.sources import weights
from attar.students.transformers import load_tokenizer
from attar.teachers.aligned import AlignedTeacher, cross
from attar.teachers.alignment import TokenizerCut
from attar.teachers.token_bytes import same_but_padding


def _width(folder: Path) -> int:
    """Return how many choices a model's row has, from its configuration; 0 where that does not say."""
    config = weights.model_config(folder)
    inner = config.get("text_config")
    return int(config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else 0) or 0)


def across(teacher: Teacher, folders: tuple[Path, Path], recipe: Recipe) -> tuple[Teacher, dict[str, float]]:
    """Return the teacher as the student can hear it, and what of the vocabularies matches.

    Args:
        teacher: answers in its own tokens.
        folders: of the teacher's and the student's model, each with its tokenizer.
        recipe: its prompt decides how a completion begins, its objectives which temperatures are kept.

    Returns:
        The same teacher where the tokenizers are one (vocabularies padded to different widths count as one).

    Raises:
        AttarError: an objective needs more than can be told across tokenizers.
    """
    theirs, ours = (load_tokenizer(folder) for folder in folders)
    if same_but_padding(theirs, ours):
        return teacher, {}
    _refuse(recipe)
    before = "" if recipe.prompt.teacher.chat else " "
    cuts = [TokenizerCut(one, before, recipe.prompt.max_new_tokens) for one in (theirs, ours)]
    widths = [_width(folder) or len(one) for folder, one in zip(folders, (theirs, ours), strict=True)]
    crossing = cross(cuts[0], cuts[1], (widths[0], widths[1]))
    facts = dict(crossing.facts())
    say(f"  another tokenizer: the teacher has {facts['student_ids_matched']:.0%} of the student's tokens")
    temperatures = recipe.temperatures or (1.0,)
    return AlignedTeacher(teacher, crossing, AlignedTeacher.Settings(temperatures=temperatures)), facts


def _refuse(recipe: Recipe) -> None:
    """Refuse an objective that the likeliest choices at single temperatures cannot serve."""
    gives = frozenset[Signal]({"top", "hard"})
    for term in recipe.distill.objective:
        if not suits(catalog.entry("objective", term.use), gives):
            why = f"{term.use} needs scores of every token"
        elif isinstance(term.settings.get("temperature"), Mapping):
            why = "a ramp of temperatures needs scores of every token"
        else:
            continue
        raise AttarError(
            f"The student's tokenizer is another than the teacher's, and {why}; across tokenizers only the likeliest "
            "are told, at single temperatures. Use forward_kl with one temperature, or a student of the teacher's "
            "family."
        )
