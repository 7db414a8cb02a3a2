"""Read the headers of safetensors files, and recognize pickles, without loading weights."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.errors import AttarError

HEADER_LIMIT = 100_000_000  # the safetensors library's own limit
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16},
    **{"F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64},
}
NOT_WEIGHTS = ("BOOL", "I16", "U16", "I32", "U32", "I64", "U64")  # positions and masks kept as buffers


def is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle, or a zip of pickles as `torch.save` writes, whatever its name says."""
    with path.open("rb") as handle:
        begin = handle.read(9)
    if begin.startswith(b"PK\x03\x04"):
        return True
    # the ninth byte of a safetensors file opens its JSON header; its length may begin as a pickle does
    return len(begin) > 1 and begin[0] == 0x80 and 2 <= begin[1] <= 5 and begin[8:9] != b"{"


def refuse_pickle(path: Path) -> AttarError:
    """Return the error that says why a pickle is not read and what to do."""
    return AttarError(
        f"{path} is a pickle. Reading a pickle runs whatever code its author put into it, so attar never does. Convert "
        "it where you trust it: model.save_pretrained(folder, safe_serialization=True) writes safetensors; or choose a "
        "source that has them."
    )


def tensors(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the tensors of a safetensors file: name -> ``dtype``, ``shape`` and ``data_offsets``.

    Args:
        path: the file; only its header is read.

    Raises:
        AttarError: the file is a pickle, truncated or damaged.
    """
    size = os.path.getsize(path)
    with path.open("rb") as handle:
        begin = handle.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else HEADER_LIMIT + 1
        header = handle.read(length) if length <= min(HEADER_LIMIT, size) else b""
    if is_pickle(path):
        raise refuse_pickle(path)
    if not header or not header.startswith(b"{") or length + 8 > size:
        raise _damaged(path, f"its header is missing or incomplete, of {size} bytes in all")
    try:
        found = json.loads(header)
        found.pop("__metadata__", None)
        end = _checked_end(path, found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header is no table of tensors") from error
    if 8 + length + end != size:
        raise _damaged(path, f"its header promises {8 + length + end} bytes, it has {size}")
    return found  # type: ignore[no-any-return]


def _checked_end(path: Path, found: Mapping[str, Any]) -> int:
    last = 0
    for name, tensor in found.items():
        begin, end = tensor["data_offsets"]
        bits = BITS.get(tensor["dtype"])
        if bits is not None and (end - begin) * 8 != math.prod(tensor["shape"]) * bits:
            raise _damaged(path, f"the shape of '{name}' does not agree with its bytes")
        last = max(last, end)
    return last


def _damaged(path: Path, why: str) -> AttarError:
    return AttarError(f"{path} is no whole safetensors file: {why}. Download or copy it again.")


def parameters(path: Path) -> int:
    """Return the number of parameters in a safetensors file; integer buffers do not count."""
    return sum(math.prod(t["shape"]) for t in tensors(path).values() if t["dtype"] not in NOT_WEIGHTS)
