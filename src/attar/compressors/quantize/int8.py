"""Share what the two kinds of int8 graphs have in common: their settings, and which layers stay in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from attar.compressors.quantize.graph import Layer, named
from attar.compressors.quantize.processor import saturates
from attar.compressors.quantize.sensitive import Build, Found, Judged, hold, told
from attar.errors import AttarError
from attar.settings import Settings

Judge = Callable[[], Judged]


class Int8Settings(Settings):
    """Set how weights are scaled, and how much may be lost."""

    per_channel: bool = Field(True, description="a scale for each output channel instead of one a weight")
    reduce_range: bool | None = Field(
        None,
        description="weights of 7 bits, for x86 processors whose int8 products overflow (no VNNI, no AMX); by default "
        "as this processor needs it",
    )
    floor: float = Field(0.005, ge=0, lt=1, description="largest loss of quality that `keep: auto` allows")

    @property
    def reduces(self) -> bool:
        """Tell whether weights have 7 bits."""
        return saturates() if self.reduce_range is None else self.reduce_range

    def notes(self) -> tuple[str, ...]:
        """Return what the report must say of the processor."""
        if not self.reduces:
            return ()
        return ("weights have 7 bits, so that int8 products cannot overflow on a processor without VNNI or AMX",)


def decide(
    keep: Sequence[str] | Literal["auto"], floor: float, layers: Sequence[Layer], build: Build, judged: Judge
) -> Found:
    """Return which layers stay in float.

    Args:
        keep: patterns of layers, or ``"auto"``.
        floor: largest loss of quality that ``"auto"`` allows.
        layers: all that can be quantized.
        build: writes a graph in which some stay in float.
        judged: makes what graphs are compared with; it is called for ``"auto"`` alone.

    Raises:
        AttarError: a pattern fits no layer, nothing is left to quantize, or no layer holds the floor.
    """
    if keep == "auto":
        return hold(layers, build, judged(), floor)
    chosen = named(keep, layers)
    if len(chosen) == len(layers):
        raise AttarError(f"keep: {list(keep)} leaves no layer to quantize. Name fewer layers, or leave the step out.")
    return Found(chosen, (f"in float32: {told(chosen, layers)}",) if chosen else ())
