"""Load what stages work on: weights from their source, language models, the objective of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar import catalog
from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Objective, Task, Teacher
from attar.errors import AttarError
from attar.objectives.weighted import WeightedSum
from attar.optional import lazy
from attar.sources import reference, weights
from attar.students.folder import kind_of
from attar.students.settings import ModelSettings
from attar.students.transformers import check_loaded, load_tokenizer, quiet_transformers

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def task(name: str) -> Task:
    """Return the task of a recipe."""
    found: Task = catalog.entry("task", name)()
    return found


def fetch_weights(settings: ModelSettings, base: Path, cache: Path) -> Path | None:
    """Return the local folder (or GGUF file) of a model's weights, checked; None for a model built from a size.

    Raises:
        AttarError: they cannot be had, are damaged, or are pickles.
    """
    if settings.model is None or kind_of(settings) in ("timm", "torchvision"):
        return None
    found = reference.fetch(reference.parse(settings.model, base), settings.sha256, cache)
    weights.check_weights(found)
    return found


def language_model(
    folder: Path, dtype: torch.dtype, device: torch.device, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Return a causal language model in evaluation mode, with its tokenizer.

    Raises:
        AttarError: the folder holds no causal language model.
    """
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise AttarError(
            f"{folder} cannot be loaded as a causal language model: {str(error).splitlines()[0]} A teacher that is no "
            "language model needs `train` (with gold labels)."
        ) from error
    check_loaded(folder, model, loaded)
    lost = [name for name in loaded["missing_keys"] if "head" in name]  # tied heads are not among them
    if lost:
        raise AttarError(
            f"{folder} holds no language model: its head ({lost[0]}) is missing. Give a causal language model."
        )
    return model.to(device).eval(), load_tokenizer(folder)


def objective_of(terms: Sequence[tuple[float, str, Mapping[str, Any]]]) -> Objective:
    """Return the weighted sum of objectives named in a recipe.

    Args:
        terms: ``(weight, name, settings)`` of each.

    Example:
        >>> sorted(objective_of([(1.0, "forward_kl", {})]).needs)
        ['logits']
    """
    parts = []
    for weight, name, settings in terms:
        kind = catalog.entry("objective", name)
        parts.append((weight, kind(kind.Settings(**settings))))
    return WeightedSum(parts)


def with_targets(examples: Examples, teacher: Teacher | None) -> Examples:
    """Return the examples with a hard target each: gold where known, else the teacher's choice.

    Raises:
        AttarError: a gold label is missing and there is no teacher to ask.
    """
    unknown = examples.labels == UNKNOWN
    if not unknown.any():
        return examples
    if teacher is None:
        raise AttarError(
            f"{int(unknown.sum())} examples have no gold label, and no teacher was recorded to label them."
        )
    chosen = teacher.answer(examples).dense().argmax(dim=-1).numpy()
    return Examples(examples.keys, examples.inputs, np.where(unknown, chosen, examples.labels))
