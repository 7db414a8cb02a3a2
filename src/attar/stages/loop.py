"""Train: the one loop, for teachers, students, controls and recovery."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.log import progress as progress_bar
from attar.optional import lazy
from attar.seeds import derive
from attar.stages.checkpoint import Progress, frozen_names, load_best, load_checkpoint, save_best, save_checkpoint
from attar.stages.device import choose_device, choose_precision, precision_name
from attar.stages.lesson import Lesson, accumulate, build_learned
from attar.stages.memory import trim_heap
from attar.stages.schedule import Schedule, TrainSettings
from attar.stages.score import score
from attar.stages.shares import gradient_shares

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TRIM_STEPS = 10
"""Steps between two returns of freed memory: rare enough to cost nothing, often enough to bound the holes."""


@dataclass
class Outcome:
    """Hold what training gave.

    Args:
        history: one row a logged step: step, epoch, loss, learning_rate, and validation where it was looked at.
        best_step: the step whose weights were kept.
        steps: optimizer steps done.
        precision: of matrix products.
        clock: a step at which the validation split was looked at -> seconds of training until then, over all tries.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    precision: str = "float32"
    clock: dict[str, float] = field(default_factory=dict, compare=False)


class Trainer:
    """Train a model on a lesson, in one process or in many (accelerate).

    Everything random is a function of the seed and the step, and every step a function of the weights before it:
    a run killed at any instant goes on from its last checkpoint to the weights of an undisturbed one.

    Args:
        model: is trained in place.
        lesson: what to teach.
        settings: see `TrainSettings`.
        seed: of order and dropout.
        work: folder for checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(
        self, model: Model, lesson: Lesson, settings: TrainSettings, seed: int, work: Path, device: str = "auto"
    ) -> None:
        from accelerate import Accelerator

        self.lesson, self.settings, self.seed, self.work = lesson, settings, seed, work
        self.accelerator = Accelerator(cpu=choose_device(device).type == "cpu")
        self.dtype = choose_precision(settings.precision, self.accelerator.device)
        self.schedule = Schedule(lesson.task.length(model, lesson.train), settings, seed)
        # not wrapped in DDP, which waits for ever where processes have different numbers of micro-batches
        self.plain: torch.nn.Module = model.module.to(self.accelerator.device)
        self.model = replace(model, module=self.plain)
        learned = build_learned(lesson, self.model, derive(seed, "objective"))
        # what objectives learn, and the moving average, are checkpointed with the student and never saved with it
        beside: list[torch.nn.Module] = [learned] if len(learned) else []
        beside += [lesson.moving.begin(self.model)] if lesson.moving is not None else []
        self.trained = torch.nn.ModuleList([self.plain, *beside]) if beside else self.plain
        # of the model's own names and, where more is trained, of the names in the list: a moving average is frozen and
        # changes all the same
        self.frozen = frozen_names(self.plain)
        self.left_out = frozenset(f"0.{name}" for name in self.frozen) if beside else self.frozen
        self.optimizer = self.accelerator.prepare(_optimizer(self.trained, settings))

    def run(self, title: str) -> Outcome:
        """Train to the end and leave the best weights in the model.

        Args:
            title: for the progress bar.
        """
        state = load_checkpoint(self.work, self.trained, self.optimizer, self.left_out)
        began = time.monotonic() - state.seconds
        if self.lesson.draw is not None:
            self.lesson.draw.restore(state.drawn)
        saved = time.monotonic()
        with progress_bar(title, self.schedule.steps, state.step) as bar:
            while state.step < self.schedule.steps and not self._stops(state):
                row = self._step(state.step)
                state.step += 1
                state.seconds = time.monotonic() - began
                if self.schedule.validates(state.step - 1):
                    state.clock[str(state.step)] = round(time.monotonic() - began, 1)
                    row |= self._validate(state) | self._shares(state.step - 1)
                if "validation" in row or state.step % max(1, self.schedule.steps // 100) == 0:
                    state.history.append(row)
                bar.advance(1, f"loss {row['loss']:.3f}")
                if state.step % TRIM_STEPS == 0:
                    trim_heap()
                if time.monotonic() - saved >= self.settings.checkpoint_seconds:
                    self._save(state)
                    saved = time.monotonic()
        self._save(state)
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
        load_best(self.work, self.plain, self.frozen)
        self.plain.eval()
        precision = precision_name(self.dtype)
        return Outcome(state.history, state.best_step, state.step, precision, state.clock)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _stops(self, state: Progress) -> bool:
        return self.settings.patience is not None and state.stale >= self.settings.patience

    def _save(self, state: Progress) -> None:
        if self.lesson.draw is not None:
            state.drawn = self.lesson.draw.state()
        if self.accelerator.is_main_process:
            save_checkpoint(self.work, self.trained, self.optimizer, state, self.left_out)

    def _step(self, step: int) -> dict[str, float]:
        self.plain.train()
        torch.manual_seed(derive(self.seed, "step", step, self.accelerator.process_index))
        micro = self.settings.micro_batch_size or self.settings.batch_size
        lesson, examples = self.lesson.at(step / self.schedule.steps), self._examples(step)
        with self._autocast():
            loss, weight = accumulate(lesson, self.model, examples, micro, self.accelerator.backward)
        loss, weight = self._over_processes(loss, weight)
        self._share(weight or 1.0)  # a step may have no row at all
        self.accelerator.clip_grad_norm_(self.trained.parameters(), self.settings.clip)
        rate = self.schedule.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if lesson.moving is not None:
            lesson.moving.after(self.plain, step + 1)
        epoch = (step + 1) / self.schedule.steps_per_epoch
        return {"step": step + 1, "epoch": round(epoch, 4), "loss": loss / (weight or 1.0), "learning_rate": rate}

    def _examples(self, step: int) -> Examples:
        """Return this process's examples of a step; drawn for all processes, so that each remembers the same."""
        examples, draw = self.lesson.train.take(self.schedule.batch(step)), self.lesson.draw
        if draw is not None:
            # its own autocast: older torch gives weights that were cast without gradient to the training pass as well
            with self._autocast():
                examples = draw(self.model, examples, derive(self.seed, "draw", step), step / self.schedule.steps)
        places = np.arange(len(examples))
        return examples.take(places[self.accelerator.process_index :: self.accelerator.num_processes])

    def _over_processes(self, loss: float, weight: float) -> tuple[float, float]:
        if self.accelerator.num_processes == 1:
            return loss, weight
        both = self.accelerator.reduce(torch.tensor([loss, weight], device=self.accelerator.device), reduction="sum")
        return float(both[0]), float(both[1])

    def _share(self, weight: float) -> None:
        """Add the gradients of all processes, over the weight of all rows; take the mean of running statistics."""
        many = self.accelerator.num_processes > 1
        for parameter in self.trained.parameters():
            if many and parameter.requires_grad:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(own, reduction="sum")
            if parameter.grad is not None:
                parameter.grad.div_(weight)
        for buffer in self.trained.buffers() if many else ():
            if buffer.is_floating_point():
                buffer.copy_(self.accelerator.reduce(buffer, reduction="mean"))

    def _validate(self, state: Progress) -> dict[str, float]:
        accuracy, loss = self._score(self.lesson.validation)
        mark = [-loss, accuracy] if self.lesson.task.chooses_by == "loss" else [accuracy, -loss]
        if state.best is None or mark > state.best:
            state.best, state.best_step, state.stale = mark, state.step, 0
            if self.accelerator.is_main_process:
                save_best(self.work, self.plain, self.frozen)
        else:
            state.stale += 1
        return {"validation": accuracy, "validation_loss": loss}

    def _shares(self, step: int) -> dict[str, float]:
        """Return the share of each objective in the gradient of a step's first examples."""
        lesson = self.lesson.at(step / self.schedule.steps)
        with self._autocast():
            found = gradient_shares(self.model, lesson, self.lesson.train.take(self.schedule.batch(step)))
        self.optimizer.zero_grad(set_to_none=True)
        return {f"share of {name}": share for name, share in found.items()}

    def _score(self, examples: Examples) -> tuple[float, float]:
        with self._autocast():
            return score(self.model, self.lesson.task, examples)


def _optimizer(module: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    free = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
