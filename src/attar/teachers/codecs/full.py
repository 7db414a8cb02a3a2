"""Keep every choice: right where choices are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.optional import lazy
from attar.settings import Settings
from attar.teachers.codecs.base import blocks, collect

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class FullSettings(Settings):
    """Set how exactly a score is kept."""

    precision: Literal["float16", "float32"] = Field("float16", description="type of a kept log-probability")


class FullCodec:
    """Keep every choice's log-probability; normalized first, they are near 0, where float16 is finest.

    Args:
        settings: see `FullSettings`.

    Example:
        >>> import torch
        >>> from attar.core.rows import example_rows
        >>> rows = example_rows(torch.tensor([7]), torch.tensor([[0.0, 0.0]]))
        >>> FullCodec(FullCodec.Settings()).encode(rows)["scores"].tolist()
        [[-0.693359375, -0.693359375]]
    """

    name: ClassVar[str] = "full"
    gives: ClassVar[frozenset[Signal]] = frozenset({"logits", "hard"})
    Settings: ClassVar[type[FullSettings]] = FullSettings
    temperatures: tuple[float, ...] = (1.0,)

    def __init__(self, settings: FullSettings) -> None:
        self.settings = settings

    def fitted(self, probe: Rows) -> FullCodec:
        """Return the codec itself: nothing is left to choose."""
        return self

    def encode(self, rows: Rows, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return ``scores (rows, choices)``."""
        dtype = torch.float16 if self.settings.precision == "float16" else torch.float32
        parts = [{"scores": log_p.to(dtype)} for _, log_p in blocks(rows)]
        return collect(parts or [{"scores": torch.zeros((0, rows.choices), dtype=dtype)}])

    def decode(
        self, columns: Mapping[str, torch.Tensor], key: torch.Tensor, weight: torch.Tensor, choices: int
    ) -> Rows:
        """Return rows with ``logits``."""
        return Rows(key, weight, columns["scores"].float())

    def hard(self, columns: Mapping[str, torch.Tensor], choices: int) -> torch.Tensor:
        """Return the likeliest choice of each row."""
        return columns["scores"].float().argmax(dim=-1)
