"""Set weights to zero: by size, by Wanda, or by SparseGPT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.activations import CHEAP, Statistics, Want, collect
from attar.compressors.prunable import prunable, walk
from attar.compressors.prune.allocation import Allocation, allocate
from attar.compressors.prune.masks import FACT, every, smallest
from attar.compressors.prune.sparsegpt import sparsegpt
from attar.core.compressing import Calibration
from attar.core.nouns import Model, Plan
from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Sparsity:
    """Set the weights to zero that matter least; shapes and formats stay as they are.

    Nothing gets faster: no runtime of the field skips single zeros on a CPU. What is saved is saved in files that are
    packed (zip, gzip, a package's wheel). A recovery afterwards keeps the zeros (`hold_zeros`).

    ``magnitude`` compares the weights of a layer by their size. ``wanda`` compares the weights of an output by size
    times the root mean square of what they read. ``sparsegpt`` goes through the columns and lets the weights that
    stay make up for those that go, a layer at a time on what the layers before, already sparse, give.

    Args:
        settings: see `Sparsity.Settings`.

    Reference:
        Sun et al. 2023, "Wanda", equation 1; Frantar & Alistarh 2023, "SparseGPT", algorithm 1.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    cuts: ClassVar[bool] = True
    counts_what_went: ClassVar[bool] = True  # the ratio is of all weights, zeros from before among them
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "text-generation", "image-classification"})

    class Settings(Settings):
        """Set how many weights become zero, and which."""

        ratio: float = Field(0.5, gt=0, lt=1, description="share of the weights to set to zero")
        method: Literal["magnitude", "wanda", "sparsegpt"] = Field(
            "sparsegpt", description="by size; by size times input; with the others making up for it"
        )
        allocation: Allocation = Field(
            "uniform", description="every layer alike; one threshold for all; less of blocks with more outliers"
        )
        pattern: Literal["none", "2:4", "4:8"] = Field("none", description="zeros among each 4 or 8 neighbors of a row")
        examples: int = Field(128, ge=1, description="training examples whose activations are looked at")
        keep: tuple[str, ...] = Field((), description="names of modules left alone, besides embeddings and heads")

        @model_validator(mode="after")
        def _pattern_is_half(self) -> Sparsity.Settings:
            if self.pattern != "none" and (self.ratio != 0.5 or self.allocation != "uniform"):
                raise ValueError(f"pattern {self.pattern} sets half of every row to zero: ratio 0.5, uniform")
            return self

        @property
        def among(self) -> int:
            """Return how many neighbors a pattern looks at; 0 without one."""
            return 0 if self.pattern == "none" else int(self.pattern[-1])

    def __init__(self, settings: Sparsity.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration as it is: zeros change no shape, and every format holds them."""
        return config

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Set weights to zero, in place.

        Args:
            model: of any kind.
            calibration: its examples are read by ``wanda`` and ``sparsegpt``, and by the allocation ``owl``.

        Returns:
            The model, and what was done.

        Raises:
            AttarError: see `attar.compressors.prunable.prunable`; or no layer fits the pattern.
        """
        found = prunable(model, "sparsity", self.settings.keep)
        fitting = {name: part for name, part in found.items() if self._fits(part)}
        if not fitting:
            raise AttarError(
                f"No layer has rows that {self.settings.among} divides, so sparsity cannot make the pattern "
                f"{self.settings.pattern}. Set pattern: none."
            )
        before = _facts(model)
        work = _Work(self.settings, model, calibration, fitting)
        work.run()
        model.facts[FACT] = {"ratio": self.settings.ratio, "pattern": self.settings.pattern}
        return model, Plan("sparsity", before, _facts(model), work.notes(len(found) - len(fitting)))

    def _fits(self, part: Any) -> bool:
        return not self.settings.among or part.weight[0].numel() % self.settings.among == 0


@dataclass
class _Work:
    """Hold what one use of the step works on."""

    settings: Sparsity.Settings
    model: Model
    calibration: Calibration
    layers: dict[str, Any]

    def run(self) -> None:
        """Set weights of all layers to zero."""
        self.unread: list[str] = []
        self.shares = self._shares()
        for name, seen in self._walk():
            self._thin(self.layers[name], self.shares[name], seen)

    def _shares(self) -> dict[str, float]:
        """Return each layer's share, from the dense model."""
        how, sizes = self.settings.allocation, {name: part.weight.numel() for name, part in self.layers.items()}
        seen: Mapping[str, Statistics] = {}
        if how == "owl" or (how == "global" and self.settings.method != "magnitude"):
            seen = collect(self.model, self.calibration.task, self._examples(), CHEAP, list(self.layers))

        def scores(name: str) -> torch.Tensor:
            """Return the scores of a layer's weights."""
            return _scores(self.layers[name], seen.get(name))

        return allocate(how, self.settings.ratio, sizes, scores)

    def _examples(self) -> Any:
        return self.calibration.some(self.settings.examples)

    def _walk(self) -> Iterator[tuple[str, Statistics | None]]:
        """Yield every layer with what it reads: those of a transformer's stack when all before them are done."""
        if self.settings.method == "magnitude":
            yield from ((name, None) for name in self.layers)
            return
        want: frozenset[Want] = CHEAP | {"hessian"} if self.settings.method == "sparsegpt" else CHEAP
        self.unread = list(self.layers)
        for name, seen in walk(self.model, self.calibration.task, self._examples(), want, self.layers):
            self.unread.remove(name)
            yield name, seen

    def _thin(self, part: Any, share: float, seen: Statistics | None) -> None:
        weight, among = part.weight.detach().flatten(1), self.settings.among
        if seen is not None and seen.hessian is not None:
            new = sparsegpt(weight, seen.hessian, share, among)
        else:  # also convolutions in groups, which have no single Hessian
            scores = _scores(part, seen)
            if among:
                drop = every(scores, among)
            elif seen is None:
                drop = smallest(scores.flatten(), share).view_as(scores)
            else:
                drop = smallest(scores, share)
            new = weight.masked_fill(drop, 0)
        part.weight.data.copy_(new.view_as(part.weight))

    def notes(self, unfit: int) -> tuple[str, ...]:
        """Return sentences for the report."""
        zeros = sum(int((part.weight == 0).sum()) for part in self.layers.values())
        share = zeros / sum(part.weight.numel() for part in self.layers.values())
        low, high = min(self.shares.values()), max(self.shares.values())
        notes = [
            f"{100 * share:.1f} % of the weights of {len(self.layers)} layers are zero by {self.settings.method}",
            "zeros make nothing faster and no parameter fewer: only a file that is packed (zip, gzip) gets smaller",
        ]
        if high - low > 1e-6:
            notes.append(f"a layer's share lies between {100 * low:.1f} and {100 * high:.1f} %")
        if unfit:
            notes.append(f"{unfit} layers have rows that the pattern does not divide, and were left")
        if self.unread:
            notes.append(f"{len(self.unread)} layers were never run on the examples, and were left: {self.unread[0]}")
        return tuple(notes)


def _scores(part: Any, seen: Statistics | None) -> torch.Tensor:
    """Return the weights' sizes ``(out, in)``, times the root mean square of what they read, where that is known."""
    size: torch.Tensor = part.weight.detach().flatten(1).abs()
    if seen is None:
        return size
    groups = getattr(part, "groups", 1)
    read = seen.square.sqrt().view(groups, -1).repeat_interleave(len(size) // groups, dim=0)
    return size * read.to(size)


def _facts(model: Model) -> dict[str, float]:
    parameters = list(model.module.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
    }
