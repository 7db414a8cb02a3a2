"""Check what stands between teacher and student: members, assistants, generations, layers by damage."""

from __future__ import annotations

from collections.abc import Iterator

from attar.errors import Mistake
from attar.pipeline.recipe import Recipe
from attar.students.folder import kind_of
from attar.students.settings import ModelSettings


def models_of(recipe: Recipe) -> Iterator[tuple[str, ModelSettings]]:
    """Yield every model of a recipe with its path: teacher, assistants, student."""
    yield "teacher", recipe.teacher
    for place, settings in enumerate(recipe.assistant):
        yield f"assistant[{place}]", settings
    yield "student", recipe.student


def chain_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """Yield what does not go together."""
    yield from _member_mistakes(recipe)
    yield from _assistant_mistakes(recipe)
    for where, settings in models_of(recipe):
        yield from _damage_mistakes(recipe, where, settings)


def _member_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    teacher = recipe.teacher
    if teacher.members == 1:
        if teacher.combine != "mean":
            yield Mistake("teacher.combine", "is for several members. Set teacher.members to 2 or more.")
        return
    if recipe.writes:
        yield Mistake(
            "teacher.members",
            f"must be 1 for {recipe.task}: members are combined by their scores of every class.",
        )
    elif teacher.train is None:
        yield Mistake(
            "teacher.members",
            f"must be 1 without teacher.train, got {teacher.members}: members differ by their training's seed.",
        )
    elif recipe.reads_features:
        yield Mistake("teacher.members", "must be 1 with an objective that compares features: an ensemble has none.")
    elif teacher.combine == "weighted" and "validation" not in recipe.data.gold:
        yield Mistake(
            "teacher.combine",
            "weighted needs each member's validation accuracy: data.gold must hold 'validation'. Or use mean.",
        )


def _assistant_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    where = "assistant" if recipe.assistant else "distill.generations"
    if recipe.assistants and recipe.distill.on_policy is not None:
        yield Mistake(
            where,
            "cannot be used with distill.on_policy: what an assistant says is recorded, and the student's own texts "
            "are not known before it writes them. Take one of the two out.",
        )
    if recipe.assistants and recipe.reads_features:
        yield Mistake(
            where,
            "cannot be used with an objective that compares features: those are the teacher's own, and the student "
            "would not hear the assistant. Take that objective out, or the assistant.",
        )


def _damage_mistakes(recipe: Recipe, where: str, settings: ModelSettings) -> Iterator[Mistake]:
    choice = settings.by_damage
    if choice is None:
        return
    reads = settings.answers_by == "label_words"  # its head is the language model's own
    if not settings.from_teacher and kind_of(settings) not in ("transformers", "label_words"):
        yield Mistake(f"{where}.layers", "by damage is for models of transformers, which have a stack of layers.")
    elif not settings.pretrained:
        yield Mistake(
            f"{where}.layers", "by damage needs pretrained weights: layers that know nothing do none. Give a number."
        )
    elif choice.measure in ("kl", "loss") and not (settings.from_teacher or recipe.writes or reads):
        yield Mistake(
            f"{where}.layers.measure",
            f"{choice.measure} needs a head that knows the task, and this model's is new. Use influence, or start "
            "from the trained teacher (model: teacher).",
        )
    elif (choice.measure == "loss" or recipe.writes) and "train" not in recipe.data.gold:
        yield Mistake(
            f"{where}.layers.measure",
            "compares what a model says with gold labels or target texts: data.gold must hold 'train'.",
        )
