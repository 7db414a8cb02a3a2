"""Write rows as bytes and read them back, with a statement of what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy
from attar.store.files import disk_errors, sync_file

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Fidelity:
    """Say what a codec keeps of the teacher.

    Args:
        bytes_per_row: bytes of scores a row takes.
        kl: mean KL(teacher ‖ decoded) in nats.
        gradient_error: ``‖p̂ - p‖ / ‖p - u‖`` over all rows, p the teacher's probabilities, p̂ the decoded ones and u
            the uniform distribution: the relative error of the gradient that an untrained student sees.
    """

    bytes_per_row: float
    kl: float
    gradient_error: float

    def to_json(self) -> Mapping[str, float]:
        """Return the figures by name."""
        return asdict(self)


class FullCodec:
    """Keep every choice's log-probability in float16: right where choices are few.

    Example:
        >>> FullCodec.name
        'full'
    """

    name = "full"

    def write(self, rows: Rows, path: Path) -> None:
        """Write a shard, whole or not at all."""
        from safetensors.torch import save_file

        beside = path.with_name(f".{path.name}.tmp")
        key, weight = rows.key.contiguous(), rows.weight.float().contiguous()
        with disk_errors(path):
            save_file({"key": key, "weight": weight, "scores": encode(rows.dense())}, beside)
            sync_file(beside)
            beside.replace(path)

    def read(self, path: Path) -> Rows:
        """Read a shard that `write` wrote.

        Raises:
            AttarError: the file is damaged, or no shard of a record.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            parts = load_file(path)
        except (OSError, SafetensorError) as error:
            raise AttarError(f"{path} is damaged: {error}. Remove it and run again.") from error
        if not {"key", "weight", "scores"} <= parts.keys():
            raise AttarError(f"{path} is no shard of a teacher's record. Remove it and run again.")
        return Rows(parts["key"], parts["weight"], parts["scores"].float())


def encode(logits: torch.Tensor) -> torch.Tensor:
    """Return float16 log-probabilities; normalizing first keeps them near 0, where float16 is finest."""
    return torch.log_softmax(logits.float(), dim=-1).clamp_min(-6e4).half().contiguous()


def fidelity(logits: torch.Tensor) -> Fidelity:
    """Return what float16 log-probabilities lose of ``logits (rows, choices)``."""
    exact = torch.log_softmax(logits.double(), dim=-1)
    decoded = torch.log_softmax(encode(logits).double(), dim=-1)
    p, q = exact.exp(), decoded.exp()
    reach = (p - 1.0 / p.shape[-1]).norm().clamp_min(1e-12)
    kl = (p * (exact - decoded)).sum(dim=-1).mean().clamp_min(0.0)
    return Fidelity(2.0 * logits.shape[-1], float(kl), float((q - p).norm() / reach))
