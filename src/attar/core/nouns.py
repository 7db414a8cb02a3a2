"""Promise what each kind of part does: the protocols that the catalogue's entries keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from attar.core.examples import Examples
from attar.core.rows import Rows

if TYPE_CHECKING:
    import torch

Signal = Literal["logits", "top", "sampled", "hard", "features", "text", "top_logprobs"]
"""What a teacher can give and an objective can need.

``logits``: scores of every choice; ``top``: the likeliest choices and the exact mass of the rest; ``sampled``: an
unbiased sample of the distribution; ``hard``: the chosen class alone; ``features``: what layers give; ``text``: what it
writes; ``top_logprobs``: the likeliest tokens of what it writes.
"""


@dataclass(frozen=True)
class Batch:
    """Hold examples with the tensors a student reads.

    Args:
        examples: the examples, in row order; a teacher answers these.
        inputs: argument name -> tensor, for the student's forward.
        targets: ``(rows,)`` int64 hard targets; `attar.core.examples.UNKNOWN` where there is none.
    """

    examples: Examples
    inputs: Mapping[str, torch.Tensor]
    targets: torch.Tensor

    @property
    def keys(self) -> torch.Tensor:
        """Return the examples' content keys as a tensor ``(examples,)``."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.examples.keys))


@dataclass
class Model:
    """Hold a network with what turns examples into its inputs.

    Args:
        module: the network.
        kind: the registered kind of student that saves and loads it.
        processor: tokenizer for text; None for images.
        facts: what the kind needs to save it again (shape, source, names of labels).
        tensors: what belongs to the network besides its weights, such as the scales of quantized ones.
    """

    module: torch.nn.Module
    kind: str
    processor: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class StudentKind(Protocol):
    """Make, save and load models of one kind; what it saves loads in the library of its field.

    Args:
        settings: the recipe's ``student`` or ``teacher`` keys.
    """

    def make(self, settings: Any, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return a new model, from pretrained ``weights`` or from a size.

        Args:
            settings: how to make it.
            weights: folder of pretrained weights, if any.
            labels: names of the classes.
            shape: shape of one input, ``(channels, height, width)``; empty for text.
        """

    def save(self, model: Model, folder: Path) -> None:
        """Write the model as files that ``load`` and its field's library read."""

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read a model that ``save`` wrote; ``facts`` are the model's own."""


class Task(Protocol):
    """Turn batches into rows and rows into metrics."""

    name: ClassVar[str]
    metric: ClassVar[str]
    chooses_by: ClassVar[str]
    """What the best step is chosen by on the validation split: ``accuracy`` of rows, or ``loss``."""

    def collate(self, model: Model, examples: Examples) -> Batch:
        """Turn examples into a batch that ``model`` reads."""

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return what the model says of the batch: one row for each decision."""

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return the cost of each example ``(examples,)``, for length-bucketed batches; equal costs for images."""


class Teacher(Protocol):
    """Answer examples.

    ``gives`` names the signals; ``fingerprint`` is equal only for teachers that answer every example equally
    (weights, tokenizer, prompt, precision).
    """

    @property
    def gives(self) -> frozenset[Signal]:
        """Return the signals it gives."""

    @property
    def fingerprint(self) -> str:
        """Return its identity."""

    def answer(self, examples: Examples) -> Rows:
        """Return the teacher's rows for these examples, in their order, without gradient."""


@dataclass(frozen=True)
class Loss:
    """Hold a loss and the parts it is the sum of.

    Args:
        total: scalar with gradient, a mean over row weights.
        parts: name -> detached value, before its weight.
    """

    total: torch.Tensor
    parts: Mapping[str, float | torch.Tensor]


@runtime_checkable
class Objective(Protocol):
    """Compare the student's rows with a target; mean over row weights; temperature with its T² factor.

    Three facts of the class say where it fits: ``settles_for`` names signals it takes in place of ``logits``;
    ``by_row`` tells that it is a mean over rows, each judged by itself, so it may be computed a few rows at a time;
    ``divergence`` that it and its gradient are 0 where student and teacher say the same.
    """

    @property
    def settles_for(self) -> frozenset[Signal]:
        """Return the signals it takes in place of ``logits``."""

    @property
    def by_row(self) -> bool:
        """Tell whether it is a mean over rows."""

    @property
    def divergence(self) -> bool:
        """Tell whether it is 0, gradient and all, where both agree."""

    @property
    def needs(self) -> frozenset[Signal]:
        """Return the signals it compares with."""

    def __call__(self, student: Rows, teacher: Rows | None, targets: torch.Tensor) -> Loss:
        """Return the loss of ``student`` against ``teacher`` (same keys, same order) or ``targets (rows,)``."""


def suits(objective: Any, gives: frozenset[Signal]) -> bool:
    """Tell whether a teacher that gives these signals can feed an objective (or a class of objectives).

    Example:
        >>> from attar.objectives.forward_kl import ForwardKL
        >>> suits(ForwardKL, frozenset({"top"})), suits(ForwardKL, frozenset({"text"}))
        (True, False)
    """
    missing = objective.needs - gives
    return not missing or (missing == {"logits"} and bool(objective.settles_for & gives))


@dataclass(frozen=True)
class Plan:
    """Say what a compression step did.

    Args:
        step: its registered name.
        before: facts before it (parameters, vocabulary, bytes).
        after: the same facts after it.
        notes: sentences for the report.
    """

    step: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    notes: tuple[str, ...] = ()
