"""Choose where and in which precision the work runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Precision = Literal["auto", "float32", "bfloat16"]


def threads() -> int:
    """Return how many threads attar computes with: ``OMP_NUM_THREADS``, else the cores this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def choose_device(wanted: str) -> torch.device:
    """Return the device; ``auto`` takes a GPU where there is one."""
    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """Return the type of matrix products: ``auto`` is bfloat16 where the processor computes in it, else float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 many times slower than float32.
    """
    if wanted == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _cpu_has_bfloat16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe)()) for probe in probes if hasattr(torch.cpu, probe))


def precision_name(dtype: torch.dtype) -> str:
    """Return ``"bfloat16"`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")
