"""Promise what a codec does, and give codecs a teacher's probabilities a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Field

from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BLOCK_VALUES = 2**20
"""Most scores laid out at once; in float32 they take 4 MiB, so that what follows finds them in the cache."""
LEAST = -6e4
"""Log-probability that stands for an impossible choice; float16 ends at -65,504."""
Temperature = Annotated[float, Field(gt=0, le=1000)]


class Codec(Protocol):
    """Turn rows into columns of few bytes, and columns into rows.

    Args:
        settings: its own ``Settings``.
    """

    name: ClassVar[str]
    gives: ClassVar[frozenset[Signal]]
    Settings: ClassVar[Any]
    settings: Any

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperatures at which a record made with it can be used, or is judged."""

    def fitted(self, probe: Rows) -> Codec:
        """Return the codec with whatever its settings leave to the data chosen on some of the teacher's rows."""

    def encode(self, rows: Rows, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return columns: name -> a tensor whose first dimension is the rows. The same seed gives the same bytes.

        Args:
            rows: with ``logits``, or with ``hidden`` and ``head``.
            seed: of random choices; what is drawn for a row depends on the seed and the row's key alone.
        """

    def decode(
        self, columns: Mapping[str, torch.Tensor], key: torch.Tensor, weight: torch.Tensor, choices: int
    ) -> Rows:
        """Return rows of the form that the codec gives.

        Args:
            columns: as `encode` made them.
            key: ``(rows, 2)``.
            weight: ``(rows,)``.
            choices: of a row in the teacher's vocabulary.
        """

    def hard(self, columns: Mapping[str, torch.Tensor], choices: int) -> torch.Tensor:
        """Return the teacher's likeliest choice of each row ``(rows,)`` int64."""


def blocks(rows: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield a few rows at a time with their log-probabilities ``(block, choices)``, float32, at temperature 1.

    What is impossible has `LEAST`, not minus infinity.

    Raises:
        AttarError: a row's scores are not numbers.
    """
    for places in rows.slices(max(1, BLOCK_VALUES // rows.choices)):
        log_p = torch.log_softmax(scores(rows.take(places)), dim=-1)
        if bool(log_p[:, 0].isnan().any()):  # one NaN makes its whole row NaN
            raise AttarError(
                "The teacher's scores hold NaN, or rule out every choice of a row. Set teacher.precision to float32, "
                "or check its weights."
            )
        yield places, log_p.clamp_min_(LEAST)


def scores(rows: Rows) -> torch.Tensor:
    """Return scores ``(rows, choices)`` in float32; the head's scale and cap are applied in float32 too."""
    if rows.hidden is None or rows.head is None:
        return rows.dense().detach().float()
    head = rows.head
    product = rows.hidden.detach().to(head.weight.dtype) @ head.weight.detach().T
    return head.finish(product.float()).detach()


def collect(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join the columns of blocks, in main memory."""
    return {name: torch.cat([part[name].cpu() for part in parts]).contiguous() for name in parts[0]}
