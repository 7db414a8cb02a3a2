"""Keep the book of a model's quantized weights: what each is rounded to, and what it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attar.compressors.quantize.grid import Grid, Scheme, scheme_of
from attar.compressors.quantize.round import round_to_nearest
from attar.core.nouns import Model
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FLOAT_BITS = 32


@dataclass
class Ledger:
    """Write rounded weights into a model, with their facts and tensors.

    Args:
        model: is changed in place.
        schemes: name of a parameter ``(out, in)`` -> what it shall be rounded to.
        keeps: keep what the weights were, so that they can be raised again.
        written: name -> the scheme it was rounded to.
    """

    model: Model
    schemes: dict[str, Scheme]
    keeps: bool = False
    written: dict[str, Scheme] = field(default_factory=dict)
    _floats: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.module.named_parameters())

    def write(self, name: str, scheme: Scheme, rounded: tuple[torch.Tensor, Grid]) -> None:
        """Put a weight on its grid."""
        values, grid = rounded
        weight = self.parameters[name]
        if self.keeps and name not in self._floats:
            self._floats[name] = weight.data.clone()
        self._erase(name)
        weight.data.copy_(values)
        self.written[name] = scheme
        self.model.tensors |= grid.tensors(name)
        self.model.facts.setdefault("quantized", {})[name] = scheme.to_json(weight.shape[1])

    def raise_bits(self, name: str, bits: Sequence[int]) -> None:
        """Round a weight to the next more of some bits, or leave it in float after the most."""
        old, weight = self.written[name], self._floats[name]
        more = [count for count in bits if count > old.bits]
        if more:
            scheme = scheme_of(min(more), old.group, old.symmetric, old.format)
            self.write(name, scheme, round_to_nearest(weight, scheme))
        else:
            self._erase(name)
            self.parameters[name].data.copy_(weight)

    @contextmanager
    def as_float(self, name: str) -> Iterator[None]:
        """Let a weight be what it was while the context lasts."""
        parameter = self.parameters[name]
        rounded = parameter.data.clone()
        parameter.data.copy_(self._floats[name])
        try:
            yield
        finally:
            parameter.data.copy_(rounded)

    def _erase(self, name: str) -> None:
        self.written.pop(name, None)
        facts = self.model.facts.get("quantized", {})
        facts.pop(name, None)
        if not facts:  # a model without quantized weights is a float one
            self.model.facts.pop("quantized", None)
        for part in ("scale", "zero", "minimum"):
            self.model.tensors.pop(f"{name}.{part}", None)

    def said(self, name: str) -> str:
        """Return the bits of a weight in words."""
        return f"{self.written[name].bits} bits" if name in self.written else "float"

    def facts(self) -> dict[str, float]:
        """Return how many parameters the model has, the bytes they are stored in, and the bits of each on average."""
        bits = 0.0
        for name, weight in self.parameters.items():
            scheme = self.written.get(name)
            bits += weight.numel() * (FLOAT_BITS if scheme is None else scheme.stored_bits(weight.shape[1]))
        count = sum(weight.numel() for weight in self.parameters.values())
        return {"parameters": count, "bytes": round(bits / 8), "bits_per_parameter": round(bits / count, 4)}
