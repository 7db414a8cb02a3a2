"""Train a model in the run: a teacher on gold labels, a student on its teacher's record, a control without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.errors import AttarError
from attar.optional import lazy
from attar.seeds import derive
from attar.stages.loop import Lesson, Trainer
from attar.stages.preflight import preflight
from attar.stages.schedule import TrainSettings
from attar.store.files import remove
from attar.students import folder as students
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Origin:
    """Say what a trained model starts from.

    Args:
        settings: the recipe's keys of the model.
        weights: folder of pretrained weights, or None.
        labels: names of the classes.
        shape: of one image; empty for text.
    """

    settings: ModelSettings
    weights: Path | None
    labels: Sequence[str]
    shape: Sequence[int]


def train_model(
    origin: Origin,
    lesson: Lesson,
    settings: TrainSettings,
    seed: int,
    places: tuple[Path, Path],
    title: str,
    device: str,
) -> dict[str, Any]:
    """Train a model and write its folder.

    Two models of one origin and one seed start from the same weights and see the same batches: that is what makes a
    control a control.

    Args:
        origin: what the model starts from.
        lesson: what it is taught.
        settings: how.
        seed: of new weights, order and dropout.
        places: work folder (checkpoints) and content folder (the finished model).
        title: for the progress bar.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        Facts for the artifact's card: the learning curve, the step that was kept, preflight checks.

    Raises:
        AttarError: there is nothing to train or to validate on, or preflight failed.
    """
    work, content = places
    for name, examples in (("training", lesson.train), ("validation", lesson.validation)):
        if len(examples) == 0:
            raise AttarError(
                f"The {name} split is empty; a model needs at least one example there. Change data's sizes."
            )
    torch.manual_seed(derive(seed, "weights"))
    model = students.make(origin.settings, origin.weights, origin.labels, origin.shape)
    checks = preflight(model, lesson)
    trainer = Trainer(model, lesson, settings, seed, work / "checkpoint", device)
    outcome = trainer.run(title)
    model.module = trainer.plain.to("cpu")
    remove(content)
    students.save(model, content)
    return {
        "history": outcome.history,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "precision": outcome.precision,
        "preflight": checks,
    }
