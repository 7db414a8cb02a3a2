"""Keep the likeliest choices, and the exact mass of all others at every temperature of the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from attar.core.nouns import Signal
from attar.core.rows import Rows, Top
from attar.optional import lazy
from attar.settings import Settings
from attar.teachers.codecs.base import LEAST, Temperature, blocks, collect
from attar.teachers.codecs.ids import pack, unpack

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Target(Settings):
    """Set what a record must keep; of two bounds given, both hold."""

    kl: float | None = Field(None, gt=0, description="most KL(teacher ‖ record) in nats, at each temperature")
    gradient_error: float | None = Field(
        None, gt=0, le=1, description="most relative error of an untrained student's gradient, at each temperature"
    )

    @model_validator(mode="after")
    def _something(self) -> Target:
        if self.kl is None and self.gradient_error is None:
            raise ValueError("give kl, gradient_error or both")
        return self


class TopkSettings(Settings):
    """Set how many choices are kept, and the temperatures at which the rest is exact."""

    k: int = Field(32, ge=1, le=65_536, description="choices kept of each row; less where a row has not that many")
    target: Target | None = Field(None, description="choose k in place of `k`: the smallest that keeps so much")
    temperatures: tuple[Temperature, ...] = Field(
        (1.0,), min_length=1, description="temperatures that the record is used at; an objective asks for one of them"
    )


class TopkCodec:
    """Keep ids and log-probabilities of the k likeliest choices, and ``log Σ p`` of all others at each temperature.

    A plain top-k record knows the mass outside at temperature 1 alone. At temperature 2 most of a language model's
    mass lies outside; with its logarithm kept (2 bytes a temperature), "k choices and the rest" is exact.

    Args:
        settings: see `TopkSettings`.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([7]), torch.tensor([[0.0, 2.0, 1.0]]))
        >>> TopkCodec(TopkCodec.Settings(k=2)).encode(rows)["ids"].tolist()
        [[1, 2]]
    """

    name: ClassVar[str] = "topk"
    gives: ClassVar[frozenset[Signal]] = frozenset({"top", "hard"})
    Settings: ClassVar[type[TopkSettings]] = TopkSettings

    def __init__(self, settings: TopkSettings) -> None:
        self.settings = settings

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperatures at which the rest is exact."""
        return self.settings.temperatures

    def fitted(self, probe: Rows) -> TopkCodec:
        """Return the codec with the smallest k that meets the target on the rows of ``probe``."""
        if self.settings.target is None:
            return self
        k = smallest_k(probe, self.settings.target, self.temperatures)
        return TopkCodec(self.settings.model_copy(update={"k": k, "target": None}))

    def encode(self, rows: Rows, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return ``ids (rows, k)``, likeliest first, ``log_p (rows, k)`` and ``rest (rows, temperatures)``."""
        k = max(1, min(self.settings.k, rows.choices - 1))
        parts = []
        for _, log_p in blocks(rows):
            best, ids = log_p.topk(k, dim=-1)
            rest = torch.stack([_rest(log_p / t, best / t, ids) for t in self.temperatures], dim=-1)
            half = {"log_p": best.half(), "rest": rest.clamp_min(LEAST).half()}
            parts.append({"ids": pack(ids, rows.choices), **half})
        if not parts:
            nothing = torch.zeros((0, k), dtype=torch.int64)
            rest = torch.zeros((0, len(self.temperatures)), dtype=torch.float16)
            parts.append({"ids": pack(nothing, rows.choices), "log_p": nothing.half(), "rest": rest})
        return collect(parts)

    def decode(
        self, columns: Mapping[str, torch.Tensor], key: torch.Tensor, weight: torch.Tensor, choices: int
    ) -> Rows:
        """Return rows with ``top``."""
        rest = {t: columns["rest"][:, place].float() for place, t in enumerate(self.temperatures)}
        top = Top(unpack(columns["ids"]), columns["log_p"].float(), rest, choices)
        return Rows(key, weight, top=top)

    def hard(self, columns: Mapping[str, torch.Tensor], choices: int) -> torch.Tensor:
        """Return the first id of each row."""
        return unpack(columns["ids"][:, 0])


def _rest(scaled: torch.Tensor, best: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the log of the softened mass of all choices that are not in ``ids``; writes into ``scaled``."""
    # the rest by itself: 1 - Σ kept would lose all digits where little is left
    others = scaled.scatter_(-1, ids, float("-inf")).logsumexp(dim=-1)
    return others - torch.logaddexp(others, best.logsumexp(dim=-1))


def smallest_k(probe: Rows, target: Target, temperatures: tuple[float, ...]) -> int:
    """Return the smallest k whose record meets a target at every temperature, on the teacher's exact distributions.

    What is lost is measured against a reader who spreads the rest evenly over the other choices; both measures fall
    as k grows, and at one choice less than all nothing is lost. The rounding of what is kept is left out: it does not
    fall with k (see `attar.teachers.codecs.fidelity`).

    Args:
        probe: rows with scores of every choice.
        target: what must be kept.
        temperatures: at each of which it must be.
    """
    found = 1
    for temperature in temperatures:
        kl, error, reach = _losses(probe, temperature)
        misses = torch.zeros_like(kl, dtype=torch.bool)
        if target.kl is not None:
            misses |= kl > target.kl
        if target.gradient_error is not None:
            misses |= error > target.gradient_error**2 * reach
        found = max(found, 1 + int(misses.sum()))
    return min(found, max(1, probe.choices - 1))


def _losses(probe: Rows, temperature: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return, for k = 1, 2, ..., the mean KL and the summed squared gradient error; and the gradient's own square."""
    choices = probe.choices
    others = torch.arange(choices - 1, 0, -1, dtype=torch.float64)
    kl, error = torch.zeros_like(others), torch.zeros_like(others)
    reach = 0.0
    for p in _sorted(probe, temperature):
        left = _suffix_sums(p)[1:]
        spread = torch.where(left > 0, left * (left.clamp_min(1e-300) / others).log(), 0.0)
        kl += (_suffix_sums(torch.xlogy(p, p))[1:] - spread).clamp_min(0.0) / len(probe)
        error += (_suffix_sums(p * p)[1:] - left**2 / others).clamp_min(0.0)
        reach += float((p - 1.0 / choices).square().sum())
    return kl, error, max(reach, math.ulp(1.0))


def _sorted(probe: Rows, temperature: float) -> Iterator[torch.Tensor]:
    for _, log_p in blocks(probe):
        for row in log_p:
            p = torch.softmax(row.sort(descending=True).values.double() / temperature, dim=-1)
            yield p.cpu()  # where the sums are kept


def _suffix_sums(values: torch.Tensor) -> torch.Tensor:
    return values.flip(-1).cumsum(-1).flip(-1)
