"""Make rows, and say slowly and in float64 what codecs must give."""

from __future__ import annotations

import torch

from attar.core.rows import Head, Rows

TEMPERATURES = (1.0, 2.0, 4.0)


def rows_of(logits: torch.Tensor, example: int = 7) -> Rows:
    """Return rows of one example, positions ascending from 3."""
    count = len(logits)
    key = torch.stack([torch.full((count,), example), torch.arange(count) + 3], dim=1)
    return Rows(key, torch.ones(count), logits)


def peaked(rows: int, choices: int, seed: int = 0) -> torch.Tensor:
    """Return logits with a few likely choices, as a language model has them."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, choices, generator=draw) * 1.5
    high = torch.randint(choices, (rows, 6), generator=draw)
    return logits.scatter_add(1, high, torch.rand(rows, 6, generator=draw) * 8)


def lazily(rows: int, choices: int, width: int = 8) -> Rows:
    """Return rows as hidden states and a head with bias, scale and cap."""
    draw = torch.Generator().manual_seed(1)
    head = Head(
        torch.randn(choices, width, generator=draw), torch.randn(choices, generator=draw), scale=0.7, softcap=20.0
    )
    key = torch.stack([torch.arange(rows) // 4, torch.arange(rows) % 4], dim=1)
    return Rows(key, torch.ones(rows), hidden=torch.randn(rows, width, generator=draw) * 2, head=head)


def decoded(codec: object, rows: Rows, seed: int = 0) -> Rows:
    """Return rows that went through a codec."""
    columns = codec.encode(rows, seed)  # type: ignore[attr-defined]
    return codec.decode(columns, rows.key, rows.weight, rows.choices)  # type: ignore[attr-defined, no-any-return]
