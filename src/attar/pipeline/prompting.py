"""Find a teacher's prompt: gather what its search works with, from the recipe and the stage's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attar import catalog
from attar.core.examples import DataSet, Examples
from attar.core.prompting import Writer
from attar.optional import lazy
from attar.pipeline.endpoints import ledger_path, served_teacher
from attar.pipeline.recipe import Recipe, WriterSettings
from attar.seeds import derive
from attar.stages import assets
from attar.stages.device import choose_device, choose_precision, threads
from attar.stages.tune import Aids, Tuned, tune_prompt, tune_writing

torch = lazy("torch")

SEEN = ("train", "validation")
Precision = Literal["auto", "float32", "bfloat16"]


def find_prompt(recipe: Recipe, found: DataSet, weights: Path | None, work: Path, cache: Path, base: Path) -> Tuned:
    """Find the prompt of a recipe's teacher.

    Args:
        recipe: its teacher answers by a prompt.
        found: the data set; of the training split, gold labels are shown only where the recipe allows them.
        weights: the teacher's folder; None for a model behind a server.
        work: folder that survives a kill.
        cache: attar's cache.
        base: the folder the recipe's paths are relative to.

    Raises:
        AttarError: the model, the words or the data do not fit.
    """
    splits = {name: found.split(name) for name in SEEN}
    settings, seed = recipe.prompt.teacher, derive(recipe.seed, "prompt")
    if weights is None:
        return _served(recipe, found.labels, splits, work, (cache, base))
    model, tokenizer = prompted_model(recipe, weights)
    aids = Aids(
        tokenizer,
        None,
        _writer(recipe, (model, tokenizer), work, (cache, base)),
        _gradient(recipe, model, tokenizer),
        task_sentence(recipe, found.labels),
    )
    if recipe.writes:
        from attar.prompts.scoring.writing import WritingScorer

        pen = WritingScorer(model, tokenizer, recipe.teacher.max_length)
        return tune_writing(pen, settings, splits, work, seed, recipe.prompt.max_new_tokens, aids)
    from attar.prompts.scoring.label_words import LabelWordScorer

    scorer = LabelWordScorer(model, tokenizer, settings.max_tokens)
    return tune_prompt(scorer, settings, found.labels, splits, work, seed, aids)


def task_sentence(recipe: Recipe, labels: Sequence[str]) -> str:
    """Return in one sentence what is to be done, for whoever writes prompts."""
    prompt = recipe.prompt.teacher
    if recipe.writes:
        return f"Write the {prompt.target} of a {prompt.input}."
    return f"Say the {prompt.target} of a {prompt.input}: {', '.join(labels)}."


def prompted_model(recipe: Recipe, weights: Path) -> tuple[Any, Any]:
    """Return the language model of the teacher, on its device and in its precision, with its tokenizer."""
    return _on_device(recipe, weights, recipe.teacher.precision, recipe.teacher.trust_remote_code)


def _on_device(recipe: Recipe, weights: Path, precision: Precision, trusted: bool) -> tuple[Any, Any]:
    from attar.students.causal import language_model

    device = choose_device(recipe.device)
    torch.set_num_threads(threads())
    model, tokenizer = language_model(weights, choose_precision(precision, device), trusted)
    return model.to(device), tokenizer


def _served(
    recipe: Recipe,
    labels: Sequence[str],
    splits: Mapping[str, Examples],
    work: Path,
    places: tuple[Path, Path],
) -> Tuned:
    from attar.teachers.endpoint_scorer import EndpointScorer

    teacher = served_teacher(recipe, labels, places[0])
    aids = Aids(writer=_writer(recipe, None, work, places), task=task_sentence(recipe, labels))
    scorer = EndpointScorer(teacher)
    return tune_prompt(scorer, recipe.prompt.teacher, labels, splits, work, derive(recipe.seed, "prompt"), aids)


def _moves(recipe: Recipe, need: str) -> bool:
    return any(need in catalog.entry("move", move.use).needs for move in recipe.prompt.teacher.moves)


def _writer(recipe: Recipe, own: tuple[Any, Any] | None, work: Path, places: tuple[Path, Path]) -> Writer | None:
    """Return who writes new prompts, if a move needs it: the recipe's writer, else the teacher itself."""
    if not _moves(recipe, "writer"):
        return None
    wanted = recipe.prompt.writer
    if wanted is not None and wanted.endpoint is not None:
        from attar.teachers.endpoint_writer import EndpointWriter

        return EndpointWriter(wanted.endpoint, ledger_path(wanted.endpoint, places[0]))
    from attar.prompts.writing.local import LocalWriter

    if wanted is not None:
        own = _loaded(recipe, wanted, work / "writer", places)
    return None if own is None else LocalWriter(*own)


def _loaded(recipe: Recipe, wanted: WriterSettings, folder: Path, places: tuple[Path, Path]) -> tuple[Any, Any]:
    cache, base = places
    found = assets.fetch_weights(wanted, base, cache)
    if found is None:
        raise ValueError("a writer that is no server has weights")
    return _on_device(recipe, assets.unpacked(found, folder), "auto", wanted.trust_remote_code)


def _gradient(recipe: Recipe, model: Any, tokenizer: Any) -> Any:
    if recipe.writes or not _moves(recipe, "gradient"):
        return None
    from attar.prompts.moves.local_gradient import LocalGradient

    return LocalGradient(model, tokenizer)
