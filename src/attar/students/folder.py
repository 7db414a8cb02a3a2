"""Make, save and load any student by its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar import catalog
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.store.files import read_json, write_json
from attar.students.settings import ModelSettings

CARD = "attar.json"
TENSORS = "attar.safetensors"
"""Tensors that belong to a model besides its weights, where it has some."""


def kind_of(settings: ModelSettings) -> str:
    """Return the registered kind of the model that the settings ask for.

    Example:
        >>> kind_of(ModelSettings(model="timm:resnet18"))
        'timm'
    """
    if settings.build is not None:
        return "net"
    if settings.answers_by == "label_words":
        return "label_words"
    scheme = str(settings.model).partition(":")[0]
    return scheme if scheme in ("timm", "torchvision") else "transformers"


def make(
    settings: ModelSettings,
    weights: Path | None,
    labels: Sequence[str],
    shape: Sequence[int],
    facts: Mapping[str, Any] | None = None,
) -> Model:
    """Return a new model; see `attar.core.nouns.StudentKind.make`.

    Args:
        settings: how to make it.
        weights: folder of pretrained weights, if any.
        labels: names of the classes.
        shape: of one image; empty for text.
        facts: what is added to the model's own facts, such as its prompt. A kind whose network depends on them has a
            method ``finish``, which is given the model with them.
    """
    kind = kind_of(settings)
    if kind == "transformers" and not labels and not shape:  # a model of texts that chooses no label writes
        kind = "causal"
    maker: Any = catalog.entry("student", kind)()
    model: Model = maker.make(settings, weights, labels, shape)
    model.facts |= facts or {}
    return maker.finish(model) if hasattr(maker, "finish") else model


def save(model: Model, folder: Path) -> None:
    """Write a model and the card that `load` needs into a folder, which is made."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    catalog.entry("student", model.kind)().save(model, folder)
    if model.tensors:
        save_file({name: tensor.contiguous() for name, tensor in model.tensors.items()}, folder / TENSORS)
    write_json(folder / CARD, {"schema": 1, "kind": model.kind, "facts": model.facts})


def load(folder: Path) -> Model:
    """Read a model that `save` wrote, in evaluation mode.

    Raises:
        AttarError: the folder is not a student's, or its files do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_json(folder / CARD)
    kind: Any = catalog.entry("student", card["kind"])()
    try:
        model: Model = kind.load(folder, dict(card["facts"]))
        if (folder / TENSORS).is_file():
            model.tensors = load_file(folder / TENSORS)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise AttarError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    model.module.eval()
    return model
