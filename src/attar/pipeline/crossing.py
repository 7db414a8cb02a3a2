"""Let a teacher be heard by a student whose tokenizer is another."""

from __future__ import annotations

from pathlib import Path

from attar.core.nouns import Teacher
from attar.log import say
from attar.pipeline.recipe import Recipe
from attar.sources import weights
from attar.students.transformers import load_tokenizer
from attar.teachers.aligned import AlignedTeacher, cross
from attar.teachers.alignment import TokenizerCut
from attar.teachers.token_bytes import same_but_padding


def across(teacher: Teacher, folders: tuple[Path, Path], recipe: Recipe) -> tuple[Teacher, dict[str, float]]:
    """Return the teacher as the student can hear it, and what of the vocabularies matches.

    Args:
        teacher: answers in its own tokens.
        folders: of the teacher's and the student's model, each with its tokenizer.
        recipe: its prompt decides how a completion begins, its objectives which temperatures are kept.

    Returns:
        The same teacher where the tokenizers are one (vocabularies padded to different widths count as one).
    """
    theirs, ours = (load_tokenizer(folder) for folder in folders)
    if same_but_padding(theirs, ours):
        return teacher, {}
    before = "" if recipe.prompt.teacher.chat else " "
    cuts = [TokenizerCut(one, before, recipe.prompt.max_new_tokens) for one in (theirs, ours)]
    widths = [int(weights.model_config(folder).get("vocab_size") or 0) for folder in folders]
    crossing = cross(cuts[0], cuts[1], (widths[0], widths[1]))
    facts = dict(crossing.facts())
    say(
        f"  the student's tokenizer is another: it has {facts['student_ids_matched']:.0%} of its tokens from the teacher's"
    )
    temperatures = recipe.temperatures or (1.0,)
    return AlignedTeacher(teacher, crossing, AlignedTeacher.Settings(temperatures=temperatures)), facts
