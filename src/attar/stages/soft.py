"""Train a prompt on a frozen model: the model of a run, as it was trained or as compression has left it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.objectives.learned import features_of
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import FACT, TEXT, SoftSettings
from attar.stages.distill import train_model
from attar.stages.lesson import Lesson
from attar.stages.schedule import TrainSettings
from attar.store.files import read_json
from attar.students import folder as students


@dataclass(frozen=True)
class PromptStart:
    """Say what a prompt is trained on, and what it begins as.

    Args:
        folder: of the model, as `attar.students.folder.save` wrote it; it stays as it is.
        prompt: the kind of prompt, its length and its beginning.
        written: the prompt that virtual tokens begin as.
    """

    folder: Path
    prompt: SoftSettings
    written: TextPrompt | None = None

    def held(self, model: Model) -> AbstractContextManager[None]:
        """Hold nothing: what is frozen is frozen by itself."""
        return nullcontext()

    def make(self) -> Model:
        """Return the model, frozen, under the new prompt; torch's seed decides what is drawn.

        Raises:
            AttarError: the folder holds no model, or the prompt does not fit it.
        """
        return add_prompt(students.load(self.folder), self.prompt, self.written)


def train_prompt(
    start: PromptStart,
    lesson: Lesson,
    settings: TrainSettings,
    seed: int,
    places: tuple[Path, Path],
    title: str,
    device: str,
) -> dict[str, Any]:
    """Train a prompt and write the folder of the model under it.

    The model's weights and running statistics stay bit for bit what they are. A run that was killed goes on from its
    last checkpoint, which holds the prompt alone.

    Args:
        start: the model and what the prompt begins as.
        lesson: what the prompt is taught: hard targets, or a teacher's record.
        settings: how. Virtual tokens take a learning rate far above that of weights: 1e-3 to 3e-2.
        seed: of the beginning, the order and dropout.
        places: work folder (checkpoints) and content folder (the finished model).
        title: for the progress bar.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        Facts for the artifact's card: those of `attar.stages.distill.train_model`, and ``prompt`` with its kind and
        what it costs (``length``, ``parameters``, ``virtual_tokens``).

    Raises:
        AttarError: the prompt does not fit the model or the lesson, a split is empty, or preflight failed.
    """
    if start.prompt.kind in TEXT and features_of(lesson.objective)[0]:
        raise AttarError(
            "A prompt of virtual tokens cannot learn from an objective that compares features: the model's layers see "
            "more tokens than the teacher's. Choose an objective that compares scores."
        )
    facts = train_model(start, lesson, settings, seed, places, title, device)
    return {**facts, "prompt": read_json(places[1] / students.CARD)["facts"][FACT]}
