"""Keep an unbiased sample of each row's distribution: a few dozen bytes for any vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from attar.core.nouns import Signal
from attar.core.rows import Rows, Sampled
from attar.optional import lazy
from attar.settings import Settings
from attar.teachers.codecs.base import Temperature, blocks, collect
from attar.teachers.codecs.ids import from_bytes, id_bytes, to_bytes
from attar.teachers.codecs.shares import from_codes, to_codes
from attar.teachers.codecs.threshold import threshold_sample, uniforms

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

HEADER = 5
"""Bytes of a row beside ids and codes: 1 how many are sure, 2 the threshold, 2 the entropy."""
ENTROPY_LEVELS = 65_535


class SampledSettings(Settings):
    """Set the bytes of a row and the temperatures that are sampled."""

    bytes: int = Field(40, ge=16, le=512, description="most bytes that a row takes, for each temperature")
    temperatures: tuple[Temperature, ...] = Field(
        (1.0,), min_length=1, description="temperatures that the record is used at; an objective asks for one of them"
    )


class SampledCodec:
    """Keep some choices of each row with shares whose expectation is the probability: ``E[share of v] = p(v)``.

    Likely choices are kept for sure with their probability; the others are drawn, and share one threshold
    (`threshold_sample`). So a sure choice takes an id and a code of 8 bits, a drawn one an id alone, and a row holds
    as many as its bytes allow: flat rows more than peaked ones. Codes are logarithmic and rounded up or down by a
    draw, which keeps the expectation exact. The likeliest choice is always sure; its share is what the others leave
    of 1, and takes no code. The entropy is kept beside, so that a divergence has its true value.

    A divergence that is linear in the teacher's probabilities (forward KL) is unbiased in value and gradient.

    Args:
        settings: see `SampledSettings`.

    Reference:
        Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", 2025: a sampled record
        is unbiased where a top-k one is not. Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary
        subset sums", 2007, and Cohen et al., "Efficient stream sampling for variance-optimal estimation of subset
        sums", 2011: which sample of K is best.

    Example:
        >>> layout(40, 49_152).sizes[:4]  # places in all, if 0, 1, 2, 3 choices are sure
        (17, 17, 17, 16)
    """

    name: ClassVar[str] = "sampled"
    gives: ClassVar[frozenset[Signal]] = frozenset({"sampled", "hard"})
    Settings: ClassVar[type[SampledSettings]] = SampledSettings

    def __init__(self, settings: SampledSettings) -> None:
        self.settings = settings

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperatures sampled."""
        return self.settings.temperatures

    def fitted(self, probe: Rows) -> SampledCodec:
        """Return the codec itself: nothing is left to choose."""
        return self

    def encode(self, rows: Rows, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return ``packed (rows, temperatures, width)``, and ``sure``, ``threshold``, ``entropy (rows, temperatures)``.

        What is drawn depends on the seed, the row's key and the temperature alone, not on the order of rows.
        """
        form = layout(self.settings.bytes, rows.choices)
        parts = []
        for part, log_p in blocks(rows):
            order = log_p.topk(form.places, dim=-1).indices
            draws = [uniforms(seed, rows.key[part], t, form.most_sure + 2).to(log_p.device) for t in self.temperatures]
            soft = [log_p if t == 1.0 else log_p / t for t in self.temperatures]
            at = [_encoded(scaled, order, draw, form) for scaled, draw in zip(soft, draws, strict=True)]
            parts.append({name: torch.stack([one[name] for one in at], dim=1) for name in at[0]})
        return collect(parts or [self._nothing(form)])

    def _nothing(self, form: Layout) -> dict[str, torch.Tensor]:
        """Return columns without rows."""
        shape = (0, len(self.temperatures))
        types = {"sure": torch.uint8, "threshold": torch.uint16, "entropy": torch.uint16}
        empty = {name: torch.zeros(shape, dtype=dtype) for name, dtype in types.items()}
        return {"packed": torch.zeros((*shape, form.width), dtype=torch.uint8), **empty}

    def decode(
        self, columns: Mapping[str, torch.Tensor], key: torch.Tensor, weight: torch.Tensor, choices: int
    ) -> Rows:
        """Return rows with ``sampled``."""
        form = layout(self.settings.bytes, choices)
        ids, shares = _unpacked(columns, form)
        entropy = columns["entropy"].float() * (math.log(choices) / ENTROPY_LEVELS)
        samples = {
            t: Sampled(ids[:, place], shares[:, place], entropy[:, place], choices)
            for place, t in enumerate(self.temperatures)
        }
        return Rows(key, weight, sampled=samples)

    def hard(self, columns: Mapping[str, torch.Tensor], choices: int) -> torch.Tensor:
        """Return the first id of each row, which is the likeliest."""
        size = id_bytes(choices)
        return from_bytes(columns["packed"][:, 0, :size], size)[:, 0]


@dataclass(frozen=True)
class Layout:
    """Say how a row's bytes are used: ids from the front, codes of sure choices from the end.

    Args:
        id_bytes: bytes an id.
        width: bytes in all.
        sizes: places in use if 0, 1, 2, ... choices are sure; the last is one more than are sure.
    """

    id_bytes: int
    width: int
    sizes: tuple[int, ...]

    @property
    def places(self) -> int:
        """Return the most places in use."""
        return self.sizes[0]

    @property
    def most_sure(self) -> int:
        """Return the most choices that are sure."""
        return len(self.sizes) - 1


@cache
def layout(size: int, choices: int) -> Layout:
    """Return the layout of a row of ``size`` bytes, entropy and all."""
    each = id_bytes(choices)
    width = min(size - HEADER, each * choices + max(choices - 2, 0))
    sizes = [min(choices, width // each)]
    while (places := min(choices, (width - len(sizes) + 1) // each)) > len(sizes):
        sizes.append(places)
    sizes[-1] = len(sizes) if len(sizes) > 1 else sizes[-1]
    return Layout(each, width, tuple(sizes))


def _encoded(scaled: torch.Tensor, order: torch.Tensor, draws: torch.Tensor, form: Layout) -> dict[str, torch.Tensor]:
    """Return the columns of some rows at one temperature, of log-probabilities divided by it."""
    choices = scaled.shape[-1]
    p = torch.softmax(scaled, dim=-1)
    entropy = _entropy(p, scaled, order) / max(math.log(choices), 1e-9)
    ids, shares, sure = threshold_sample(p, order, draws[:, 0], form.sizes)
    last = shares.gather(-1, sure[:, None].clamp_max(form.places - 1))[:, 0]
    level = (entropy * ENTROPY_LEVELS).round().clamp(0, ENTROPY_LEVELS)
    return {
        "packed": _packed(
            ids, to_codes(shares[:, 1 : form.most_sure], draws[:, 2 : 1 + form.most_sure], 8), sure, form
        ),
        "sure": sure.to(torch.uint8),
        "threshold": to_codes(last, draws[:, 1], 16).to(torch.int32).to(torch.uint16),
        "entropy": level.to(torch.int32).to(torch.uint16),
    }


def _packed(ids: torch.Tensor, codes: torch.Tensor, sure: torch.Tensor, form: Layout) -> torch.Tensor:
    """Return the bytes of rows ``(rows, width)``: ids in use from the front, codes of sure choices from the end."""
    place = torch.arange(form.places, device=ids.device)
    used = place < torch.tensor(form.sizes, device=ids.device)[sure][:, None]
    packed = torch.zeros((len(ids), form.width), dtype=torch.uint8, device=ids.device)
    packed[:, : form.places * form.id_bytes] = to_bytes(torch.where(used, ids, 0), form.id_bytes).flatten(1)
    if codes.shape[-1]:
        end = packed[:, -codes.shape[-1] :]
        own = torch.arange(1, form.most_sure, device=ids.device) < sure[:, None]
        end.copy_(torch.where(own.flip(-1), codes.to(torch.uint8).flip(-1), end))
    return packed


def _unpacked(columns: Mapping[str, torch.Tensor], form: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and shares ``(rows, temperatures, places)`` of columns."""
    packed, sure = columns["packed"], columns["sure"].long()[..., None]
    place = torch.arange(form.places)
    used = place < torch.tensor(form.sizes)[sure]
    ids = torch.where(used, from_bytes(packed[..., : form.places * form.id_bytes], form.id_bytes), 0)
    shares = torch.where(used, from_codes(columns["threshold"], 16)[..., None], 0.0)
    if form.most_sure > 1:
        own = place[1 : form.most_sure] < sure
        codes = from_codes(packed[..., 1 - form.most_sure :].flip(-1), 8)
        shares[..., 1 : form.most_sure] = torch.where(own, codes, shares[..., 1 : form.most_sure])
    shares[..., 0] = 1.0 - shares[..., 1:].sum(dim=-1)
    return ids, shares


def _entropy(p: torch.Tensor, scaled: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the entropy of ``p = softmax(scaled)``; ``order`` begins with the likeliest choice of each row."""
    first = order[:, :1]
    normalizer = (scaled.gather(-1, first) - p.gather(-1, first).log())[:, 0]
    entropy: torch.Tensor = (normalizer - torch.linalg.vecdot(p, scaled)).double()
    return entropy
