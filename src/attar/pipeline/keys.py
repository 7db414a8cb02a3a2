"""Fingerprint what a stage depends on: data, weights, machine, code."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath

from attar.meters.machine import processor
from attar.pipeline.recipe import Recipe
from attar.sources import data as sources
from attar.sources import reference
from attar.students.settings import ModelSettings

ENSEMBLE = ("members", "combine")
"""Keys of a teacher that its members are not made with: the graph has a stage for each, the record the rest."""
LIBRARIES = ("torch", "transformers", "onnxruntime")


@cache
def machine() -> dict[str, str | int]:
    """Return what measurements depend on: processor, cores, library versions."""
    facts: dict[str, str | int] = {"processor": processor(), "cores": len(os.sched_getaffinity(0))}
    return facts | {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def accelerator(device: str) -> dict[str, str]:
    """Return what training and answering on an accelerator depend on; nothing on a CPU. PyTorch is not asked.

    Args:
        device: the recipe's.
    """
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if device == "cpu" or not found:
        return {}
    names = [line.partition(":")[2].strip() for line in found[0].read_text().splitlines() if line.startswith("Model")]
    return {"accelerator": names[0] if names else "cuda"}


def data_key(recipe: Recipe, base: Path) -> dict[str, object]:
    """Return what the data depends on.

    Where a source lies is no part of it, what it holds is; the ending of its name tells how it is read.
    """
    settings = recipe.data.model_dump(mode="json", exclude={"source", "test_source", "sha256", "test_sha256"})
    endings = [PurePath(text).suffixes for text in (recipe.data.source, recipe.data.test_source) if text is not None]
    content = sources.fingerprint(recipe.data, base)
    return {"content": content, "endings": endings, "settings": settings, "seed": recipe.seed}


def model_key(settings: ModelSettings, base: Path) -> dict[str, object]:
    """Return what a model before training depends on: its weights' content and how it is made of them."""
    shape = settings.model_dump(mode="json", exclude={"model", "sha256", "train", "precision", "endpoint", *ENSEMBLE})
    if settings.model is None or settings.from_teacher:
        return {"shape": shape}
    return {"shape": shape, "weights": reference.fingerprint(reference.parse(settings.model, base), settings.sha256)}
