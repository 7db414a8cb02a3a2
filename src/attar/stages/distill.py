"""Train a model in the run: a teacher on gold labels, a student on its teacher's record, a control without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attar.core.damage import choose_by_damage
from attar.core.examples import Examples
from attar.core.nouns import Model, Task
from attar.errors import AttarError
from attar.log import say
from attar.optional import lazy
from attar.seeds import derive
from attar.stages.lesson import Lesson
from attar.stages.loop import Trainer
from attar.stages.preflight import preflight
from attar.stages.schedule import TrainSettings
from attar.store.files import remove
from attar.students import folder as students
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Start(Protocol):
    """Make a model that is to be trained."""

    def make(self) -> Model:
        """Return the model before training; torch's seed decides what is new in it."""

    def held(self, model: Model) -> AbstractContextManager[None]:
        """Keep what must not change of a model inside the ``with`` block that trains it."""


@dataclass(frozen=True)
class Origin:
    """Say what a trained model starts from.

    Args:
        settings: the recipe's keys of the model.
        weights: folder of pretrained weights, or None.
        labels: names of the classes.
        shape: of one image; empty for text.
        facts: what is added to the model's facts (the prompt of a language model).
        task: turns examples into rows, where layers are chosen by damage.
        examples: the training split as the data holds it, where layers are chosen by damage: all models of this
            origin, with a teacher or without, then start from the same layers.
    """

    settings: ModelSettings
    weights: Path | None
    labels: Sequence[str]
    shape: Sequence[int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    examples: Examples | None = None

    def make(self) -> Model:
        """Return the model before training; torch's seed decides what is new in it.

        Where layers are chosen by damage, it is the model that the same layers by number give, with a fact more:
        ``layers`` (`attar.core.damage.Damage`).

        Raises:
            AttarError: the weights or the layers cannot be had.
        """
        choice = self.settings.by_damage
        if choice is None:
            return self._made(self.settings)
        if self.task is None or self.examples is None:
            raise ValueError("layers by damage need a task and examples")
        with torch.random.fork_rng(devices=[]):
            whole = self._made(self.settings.model_copy(update={"layers": None}))
            measure = choice.measure
            if measure == "auto":  # what a head that is new says of a layer left out is noise
                known = self.settings.from_teacher or not self.labels or self.settings.answers_by == "label_words"
                measure = "kl" if known else "influence"
            found = choose_by_damage(
                whole, self.task, self.examples, choice.count, measure, choice.texts, choice.greedy
            )
        say(f"  layers kept by {measure}: {', '.join(map(str, found.kept))}")
        model = self._made(self.settings.model_copy(update={"layers": found.kept}))
        model.facts["layers"] = found.to_json()
        return model

    def held(self, model: Model) -> AbstractContextManager[None]:
        """Hold nothing: every weight is free."""
        return nullcontext()

    def _made(self, settings: ModelSettings) -> Model:
        return students.make(settings, self.weights, self.labels, self.shape, self.facts)


def train_model(
    origin: Start,
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
    model = origin.make()
    with origin.held(model):
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
        "clock": outcome.clock,
        "preflight": checks,
        **({"layers": model.facts["layers"]} if "layers" in model.facts else {}),
    }
