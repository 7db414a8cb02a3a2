"""Keep the numbers of choices in as few bytes as they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def id_bytes(choices: int) -> int:
    """Return the bytes that one id takes.

    Example:
        >>> id_bytes(49_152), id_bytes(65_536), id_bytes(151_936)
        (2, 2, 3)
    """
    return 2 if choices <= 2**16 else 3 if choices <= 2**24 else 4


def to_bytes(ids: torch.Tensor, size: int) -> torch.Tensor:
    """Return ids as ``size`` bytes each, the lowest first, in a last dimension: uint8.

    Args:
        ids: int64 of any shape, each below ``256 ** size``.
        size: 2, 3 or 4.
    """
    return torch.stack([(ids >> 8 * place & 255).to(torch.uint8) for place in range(size)], dim=-1)


def from_bytes(packed: torch.Tensor, size: int) -> torch.Tensor:
    """Return int64 ids of bytes; the last dimension holds several ids one after the other.

    Example:
        >>> import torch
        >>> from_bytes(to_bytes(torch.tensor([0, 65_536, 151_935]), 3).flatten(), 3).tolist()
        [0, 65536, 151935]
    """
    if size == 2:
        pairs = np.ascontiguousarray(packed.numpy()).view("<u2")
        return torch.from_numpy(pairs.astype(np.int64))
    parts = packed.unflatten(-1, (packed.shape[-1] // size, size)).to(torch.int32).unbind(dim=-1)
    return sum((part << 8 * place for place, part in enumerate(parts)), start=torch.zeros_like(parts[0])).to(
        torch.int64
    )


def pack(ids: torch.Tensor, choices: int) -> torch.Tensor:
    """Return ids as uint16; above 65,536 choices as 3 bytes each in a last dimension, above 2^24 as int32.

    Args:
        ids: int64 of any shape, each below ``choices``.
        choices: how many there are.
    """
    size = id_bytes(choices)
    return to_bytes(ids, 3) if size == 3 else ids.to(torch.uint16 if size == 2 else torch.int32)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return int64 ids from what `pack` gave.

    Example:
        >>> import torch
        >>> unpack(pack(torch.tensor([0, 65_536, 151_935]), 151_936)).tolist()
        [0, 65536, 151935]
    """
    return packed.to(torch.int64) if packed.dtype != torch.uint8 else from_bytes(packed, 3).squeeze(-1)
