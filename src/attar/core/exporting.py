"""Promise what a format does that a finished model can be exported to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from attar.core.nouns import Model


@runtime_checkable
class Chooses(Protocol):
    """Choose labels from exported files."""

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)`` of texts, or of uint8 images."""


@runtime_checkable
class Writes(Protocol):
    """Write texts from exported files."""

    def write(self, texts: Sequence[str]) -> list[str]:
        """Return what is written for each text, greedily."""

    def logits(self, text: str, target: str) -> np.ndarray:
        """Return the scores before each token of a target and its end, after the prompt ``(tokens, vocab)``."""

    def target_tokens(self, target: str) -> list[int]:
        """Return the token ids of a target and its end."""


class Exporter(Protocol):
    """Write a model in a format, and answer from what was written alone."""

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    precisions: ClassVar[tuple[str, ...]]
    """The first is the one that is meant if none is named."""

    def export(self, model: Model, folder: Path, precision: str) -> str:
        """Write the model's files into a folder and return the name of the one that is loaded.

        Raises:
            AttarError: the format has no place for such a model.
        """

    def reload(self, folder: Path, threads: int = 0) -> Chooses | Writes:
        """Return what answers from the folder, which holds the bundle's card and tokenizer by now.

        Raises:
            AttarError: the library that runs the format is missing, or refuses the files.
        """
