"""Factor linear layers and embeddings into two thin ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.prunable import prunable, ready, walk
from attar.core.compressing import Calibration
from attar.core.nouns import Model, Plan
from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

CANNOT = ("hf", "gguf")
"""Formats that have no place for two factors in one layer's stead."""
KIND = "factored"
DAMPING, TRIES = 1e-4, 8
"""Share of a Hessian's mean diagonal that is added to it, and how often it is made ten times larger."""


class LowRank:
    """Replace weights by products of two thin ones, where that pays.

    A linear layer ``(out, in)`` of rank r has r · (in + out) weights instead of in · out. The factors are the best of
    their rank: of the weight, or of what the layer gives on the calibration examples. An embedding ``(vocab, width)``
    becomes a table ``(vocab, rank)`` and a projection; a head tied to it stays tied.

    What it leaves is of the kind ``factored``: it loads in attar and exports to ONNX, but plain `transformers` and GGUF
    know no such layers. It comes after steps that change widths, layers or the vocabulary.

    Args:
        settings: see `LowRank.Settings`.

    Reference:
        Wang et al. 2024, "SVD-LLM", section 3.1; Lan et al. 2020, "ALBERT", section 3.1.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    cuts: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification", "text-generation", "image-classification"})

    class Settings(Settings):
        """Set what is factored, and how far."""

        ratio: float | None = Field(
            None, gt=0, lt=1, description="share of each linear layer's weights to remove; 0.3 if nothing is set"
        )
        energy: float | None = Field(
            None, gt=0, lt=1, description="in place of ratio: share of the sum of squares that each layer keeps"
        )
        embeddings: int | None = Field(None, ge=1, description="rank of the table of embeddings; none leaves it whole")
        by: Literal["activations", "weights"] = Field(
            "activations", description="what the factors are nearest to: the layer's outputs, or its weight"
        )
        examples: int = Field(128, ge=1, description="training examples whose activations are looked at")
        keep: tuple[str, ...] = Field((), description="names of modules left alone, besides heads")

        @model_validator(mode="after")
        def _one_size(self) -> LowRank.Settings:
            if self.ratio is not None and self.energy is not None:
                raise ValueError("low_rank takes ratio or energy, not both")
            return self

        @property
        def share(self) -> float | None:
            """Return the share to remove of linear layers; None where they are sized by energy, or left."""
            nothing = self.ratio is None and self.energy is None and self.embeddings is None
            return 0.3 if nothing else self.ratio

    def __init__(self, settings: LowRank.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration as it is.

        Raises:
            AttarError: the format has no place for factors.
        """
        if to in CANNOT:
            raise AttarError(f"low_rank leaves layers of two factors, which {to} cannot express. Export to onnx.")
        return config

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Factor a model, in place.

        Args:
            model: of any kind.
            calibration: its examples are read where factors follow activations.

        Returns:
            The model, now of the kind ``factored``, and what was done.

        Raises:
            AttarError: see `attar.compressors.prunable.prunable`; the model is factored already, or nothing pays.
        """
        if model.kind == KIND:
            raise AttarError("low_rank was applied already, and works once. Give it one smaller rank.")
        from attar.core.factored import FACT

        ready(model, "low_rank")
        before = _facts(model)
        rank = self._table_rank(model)
        ranks = self._factor_layers(model, calibration) if self._sizes_layers else {}
        if not ranks and not rank:
            raise AttarError("No layer has fewer weights in two factors, so low_rank has nothing to do. Leave it out.")
        if rank:
            _factor_table(model.module, rank)
        fact = {"base": model.kind, "linear": ranks, "embeddings": rank}
        factored = replace(model, kind=KIND, facts={**model.facts, FACT: fact})
        return factored, Plan("low_rank", before, _facts(factored), self._notes(ranks, rank))

    @property
    def _sizes_layers(self) -> bool:
        return self.settings.share is not None or self.settings.energy is not None

    def _table_rank(self, model: Model) -> int:
        """Return the rank of the table of embeddings, 0 where it stays whole."""
        rank = self.settings.embeddings
        if rank is None:
            return 0
        from attar.core.factored import input_table

        network = getattr(model.module, "lm", model.module)
        table: Any = input_table(model.module) if hasattr(network, "get_input_embeddings") else None
        if type(table) is not torch.nn.Embedding:  # others scale what they give
            raise AttarError(
                f"{type(network).__name__} has no plain table of embeddings, so low_rank cannot factor one. Leave "
                "`embeddings` out, or choose another architecture, such as BERT or Llama."
            )
        vocabulary, width = table.weight.shape
        if rank * (vocabulary + width) >= vocabulary * width:
            raise AttarError(
                f"embeddings of rank {rank} are no fewer weights than the table of {vocabulary} x {width}. "
                f"Set embeddings below {vocabulary * width // (vocabulary + width)}."
            )
        return rank

    def _factor_layers(self, model: Model, calibration: Calibration) -> dict[str, int]:
        """Factor the linear layers where it pays; return name -> rank."""
        from attar.core.factored import factor

        found = prunable(model, "low_rank", self.settings.keep)
        # a subclass can be read in other ways than by calling it
        layers: dict[str, Any] = {name: part for name, part in found.items() if type(part) is torch.nn.Linear}
        ranks: dict[str, int] = {}
        self._count = len(layers)
        for name, hessian in self._walk(model, calibration, list(layers)):
            wide = layers[name]
            up, values, down = decompose(wide.weight.detach(), hessian)
            rank = self._rank(wide, values)
            if rank == 0:
                continue
            ranks[name] = rank
            factor(model.module, {name: rank})
            narrow: Any = model.module.get_submodule(name)
            with torch.no_grad():
                narrow.first.weight.copy_(values[:rank].sqrt()[:, None] * down[:rank])
                narrow.second.weight.copy_(up[:, :rank] * values[:rank].sqrt())
            narrow.second.bias = wide.bias
        return ranks

    def _walk(
        self, model: Model, calibration: Calibration, names: list[str]
    ) -> Iterator[tuple[str, torch.Tensor | None]]:
        if self.settings.by == "weights":
            yield from ((name, None) for name in names)
            return
        examples = calibration.some(self.settings.examples)
        for name, seen in walk(model, calibration.task, examples, {"hessian"}, names):
            yield name, seen.hessian

    def _rank(self, wide: Any, values: torch.Tensor) -> int:
        """Return the rank of a layer; 0 where no rank pays that is high enough."""
        whole, both = wide.weight.numel(), sum(wide.weight.shape)
        if self.settings.energy is None:
            return int((1 - (self.settings.share or 0.0)) * whole / both)
        kept = values.square().cumsum(0) / values.square().sum()
        rank = int((kept < self.settings.energy).sum()) + 1
        return rank if rank * both < whole else 0

    def _notes(self, ranks: Mapping[str, int], rank: int) -> tuple[str, ...]:
        notes = ["loads in attar and exports to ONNX; plain transformers and GGUF have no such layers"]
        if ranks:
            low, high = min(ranks.values()), max(ranks.values())
            notes.insert(0, f"{len(ranks)} of {self._count} linear layers are of rank {low} to {high}")
        if self._sizes_layers and len(ranks) < self._count:
            notes.append(
                f"{self._count - len(ranks)} layers would not have fewer weights in two factors, and were left"
            )
        if rank:
            notes.append(f"the table of embeddings is of rank {rank}; heads tied to it are tied still")
        return tuple(notes)


def decompose(
    weight: torch.Tensor, hessian: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``up (out, r)``, ``values (r,)`` from large to small and ``down (r, in)``: up · values · down = weight.

    Cut after any rank, they are the nearest of that rank: to the weight, or with a Hessian to what the layer gives.

    Args:
        weight: ``(out, in)``.
        hessian: ``(in, in)``, the mean of x xᵀ.

    Reference:
        Wang et al. 2024, "SVD-LLM", section 3.1: the values of W L, where L Lᵀ is the Hessian, are the loss of each.

    Example:
        >>> import torch
        >>> up, values, down = decompose(torch.diag(torch.tensor([3.0, 1.0])))
        >>> [round(float(value), 4) for value in values]
        [3.0, 1.0]
    """
    matrix = weight.double()
    if hessian is None:
        up, values, down = torch.linalg.svd(matrix, full_matrices=False)
    else:
        lower = _cholesky(hessian.double())
        up, values, whitened = torch.linalg.svd(matrix @ lower, full_matrices=False)
        down = torch.linalg.solve_triangular(lower, whitened, upper=False, left=False)
    return up.to(weight), values.to(weight), down.to(weight)


def _cholesky(hessian: torch.Tensor) -> torch.Tensor:
    """Return the lower factor of a Hessian, damped until it has one: few examples leave directions unread."""
    mean = float(hessian.diagonal().mean()) or 1.0
    for power in range(TRIES):
        damped = hessian + DAMPING * mean * 10**power * torch.eye(len(hessian), dtype=hessian.dtype)
        lower: torch.Tensor
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return lower
    raise AttarError(
        "A layer's Hessian has no factors: what the layer reads is infinite or no number on the calibration examples. "
        "Take by: weights, or check the model's answers on them."
    )


def _factor_table(module: torch.nn.Module, rank: int) -> None:
    """Factor the table of embeddings, in place."""
    from attar.core.factored import factor, input_table

    table = input_table(module).weight.detach().double()
    _, directions = torch.linalg.eigh(table.T @ table)  # as the SVD of the tall table, without its long side
    best = directions[:, -rank:]
    factor(module, {}, rank)
    narrow: Any = input_table(module)
    with torch.no_grad():
        narrow.table.weight.copy_(table @ best)
        narrow.up.weight.copy_(best)


def _facts(model: Model) -> dict[str, float]:
    return {"parameters": sum(parameter.numel() for parameter in model.module.parameters())}
