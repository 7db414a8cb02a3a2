"""Hold what a compression step may look at, and promise what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Model, Plan, Task
from attar.errors import AttarError
from attar.settings import Settings

if TYPE_CHECKING:
    import torch

Loss = Callable[[Model, Examples], "torch.Tensor"]
"""Return the mean loss of some examples, with a gradient: what the student is trained by."""


@dataclass(frozen=True)
class Calibration:
    """Hold what a step that works on the model may look at: nothing of the test split.

    Args:
        task: turns examples into the model's inputs and rows.
        examples: the training split; labels and targets are there only where the recipe allows them.
        inputs: every input outside the test split.
        seed: of every draw.
        loss: what the model is trained by; None where a step is tried without a lesson.
    """

    task: Task
    examples: Examples
    inputs: Sequence[Any]
    seed: int = 0
    loss: Loss | None = None

    def some(self, count: int) -> Examples:
        """Return so many of the examples, evenly spread; all if there are fewer."""
        places = np.linspace(0, max(len(self.examples) - 1, 0), min(count, len(self.examples))).round().astype(int)
        return self.examples.take(np.unique(places))


@dataclass(frozen=True)
class GraphCalibration:
    """Hold what a step that works on an exported graph may look at.

    Args:
        feeds: inputs of single examples as the graph takes them, name -> array with a batch axis of 1.
        judge: returns a graph's quality on validation examples, higher is better; None where nothing can be judged.
    """

    feeds: Sequence[Mapping[str, np.ndarray]] = field(default=())
    judge: Callable[[Path], float] | None = None


class ModelStep(Protocol):
    """Make a model smaller before it is exported; what it leaves loads in the library of its field."""

    at: ClassVar[Literal["model", "export"]]
    """Where it works: on the trained model, or on the exported graph."""
    tasks: ClassVar[frozenset[str]]
    Settings: ClassVar[type[Settings]]
    # optional: ``cuts: ClassVar[bool] = True`` where the model computes something else afterwards and recovers from it;
    # ``counts_what_went`` where a ratio is of the whole, what earlier rounds removed among it

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return a model's configuration as the step would leave it, before any work.

        Args:
            config: of the model, as ``config.json`` holds it; empty for networks that have none.
            to: the format of the bundle.

        Raises:
            AttarError: the step cannot be done on such a model, or the format cannot express the result.
        """

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Change a model (in place, or a new one), and say what was done.

        Raises:
            AttarError: the step does not fit the model, or its weights are no numbers.
        """


class GraphStep(Protocol):
    """Make an exported graph smaller."""

    at: ClassVar[Literal["model", "export"]]
    tasks: ClassVar[frozenset[str]]
    precision: ClassVar[str]
    Settings: ClassVar[type[Settings]]

    def apply(self, source: Path, target: Path, calibration: GraphCalibration) -> Plan:
        """Read the graph ``source`` and write ``target``.

        Raises:
            AttarError: the graph has nothing to do, or what the step cannot do.
        """


def finite(model: Model) -> None:
    """Refuse weights that are no numbers: a step would choose by them, and give a model that says nothing.

    Args:
        model: any; integers are passed over.

    Raises:
        AttarError: a parameter or buffer holds NaN or infinity; the message names it.

    Example:
        >>> import torch
        >>> finite(Model(torch.nn.Linear(2, 2), "net"))
    """
    for kind, named in (("weight", model.module.named_parameters()), ("buffer", model.module.named_buffers())):
        for name, tensor in named:
            # masks of attention hold minus infinity by design, and are buffers that no file keeps
            if kind == "buffer" and not name.endswith(("running_mean", "running_var")):
                continue
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise AttarError(
                    f"The {kind} '{name}' holds NaN or infinity, and only finite numbers can be compressed. "
                    "Train the model again with a smaller learning rate, or give weights that are whole."
                )


def unquantized(model: Model, step: str) -> None:
    """Refuse a model whose weights lie on a grid already: changed weights would leave it.

    Args:
        model: any.
        step: the registered name of the step that asks.

    Raises:
        AttarError: the model is quantized.

    Example:
        >>> import torch
        >>> unquantized(Model(torch.nn.Linear(2, 2), "net"), "sparsity")
    """
    if model.facts.get("quantized"):
        raise AttarError(
            f"{step} changes weights, but those of this model are quantized already. Put quantization last."
        )
