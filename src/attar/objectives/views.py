"""See a feature as numbers at positions of examples, and bring those of student and teacher to the same positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class View:
    """Hold a feature.

    Args:
        name: of the feature.
        values: ``(examples, width)``, ``(examples, time, width)``, ``(examples, channels, height, width)`` or, named
            ``attention:I``, ``(examples, heads, time, time)``; float32 or float64.
        mask: ``(examples, time)`` bool, True for a token; None where all positions count.
    """

    name: str
    values: torch.Tensor
    mask: torch.Tensor | None = None

    @property
    def is_attention(self) -> bool:
        """Tell whether these are attention probabilities."""
        return self.name.startswith("attention:")

    @property
    def is_map(self) -> bool:
        """Tell whether this is an image of many channels."""
        return self.values.ndim == 4 and not self.is_attention

    @property
    def width(self) -> int:
        """Return how many numbers a position has."""
        return self.values.shape[1] if self.is_map else self.values.shape[-1]

    def like(self, other: View) -> View:
        """Return it cut from the gradient, on the device and in the type of another."""
        mask = None if self.mask is None else self.mask.to(other.values.device)
        return replace(self, values=self.values.detach().to(other.values), mask=mask)

    def real(self) -> torch.Tensor:
        """Return the mask ``(examples, time)``, all True where there is none."""
        time = self.values.shape[-1] if self.is_attention else self.values.shape[1]
        if self.mask is not None:
            return self.mask
        return torch.ones(len(self.values), time, dtype=torch.bool, device=self.values.device)

    def embedding(self) -> torch.Tensor:
        """Return one vector an example ``(examples, width)``: the mean over tokens or pixels.

        Raises:
            AttarError: these are attention probabilities.
        """
        self.check_states()
        if self.is_map:
            return self.values.mean(dim=(2, 3))
        if self.values.ndim == 2:
            return self.values
        return mean_where(self.values.transpose(1, 2), self.real()[:, None])

    def check_states(self) -> None:
        """Refuse attention probabilities: they are no vectors of one width.

        Raises:
            AttarError: these are attention probabilities.
        """
        if self.is_attention:
            raise AttarError(
                f"'{self.name}' holds attention probabilities, which attention_transfer compares. Pair other features."
            )


def view(rows: Rows, name: str) -> View:
    """Return a feature of rows, in float32, or in float64 if it is that.

    Raises:
        ValueError: the rows do not hold it.
    """
    if name not in rows.features:
        raise ValueError(f"these rows hold no '{name}'; they hold {', '.join(rows.features) or 'no features'}")
    values = rows.features[name]
    values = values if values.dtype == torch.float64 else values.float()
    mask = rows.features.get("mask")
    time = values.shape[-1] if name.startswith("attention:") else values.shape[1]
    timed = values.ndim == 3 or name.startswith("attention:")
    fits = mask is not None and timed and mask.shape[1] == time
    return View(name, values, mask.bool() if fits and mask is not None else None)


def example_weight(rows: Rows, examples: int) -> torch.Tensor:
    """Return how much each example counts ``(examples,)``: the summed weight of its rows.

    Raises:
        ValueError: the rows are those of another number of examples.
    """
    if len(rows) == examples:
        return rows.weight
    _, place = torch.unique_consecutive(rows.key[:, 0], return_inverse=True)
    count = int(place[-1]) + 1 if len(place) else 0
    if count != examples:
        raise ValueError(f"the rows are those of {count} examples, and the features those of {examples}")
    return torch.zeros(examples, dtype=rows.weight.dtype, device=rows.weight.device).index_add(0, place, rows.weight)


def mean_where(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the last dimension where the mask is True; 0 where it is nowhere.

    Args:
        values: ``(..., positions)``.
        mask: bool, of a shape that spreads to that of ``values``.
    """
    mask = mask.expand_as(values)
    return torch.where(mask, values, 0.0).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)


def same_tokens(ours: View, theirs: View) -> torch.Tensor:
    """Return which positions are tokens in both ``(examples, time)``; time ends where the shorter ends.

    Raises:
        AttarError: student and teacher read different tokens.
    """
    first, second = ours.real(), theirs.real()
    time = min(first.shape[1], second.shape[1])
    cut = bool(first[:, time:].any()) or bool(second[:, time:].any())
    if cut or not torch.equal(first[:, :time], second[:, :time]):
        raise AttarError(
            f"'{ours.name}' of the student and '{theirs.name}' of the teacher are of different tokens; to be compared "
            "token by token, both need one tokenizer and one max_length. Compare 'pooled' instead, or other objectives."
        )
    return first[:, :time]


def positions(ours: View, theirs: View) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both as vectors at the same positions: tokens, pixels, or one for the whole example.

    Of two maps the larger is averaged to the smaller's size.

    Returns:
        The student's ``(examples, positions, width)``, the teacher's, and the mask ``(examples, positions)``.

    Raises:
        AttarError: they have different forms, are attention probabilities, or are of different tokens.
    """
    check_forms(ours, theirs)
    ours.check_states()
    if ours.is_map:
        first, second = (maps.flatten(2).transpose(1, 2) for maps in same_grid(ours.values, theirs.values))
        return first, second, first.new_ones(first.shape[:2], dtype=torch.bool)
    if ours.values.ndim == 2:
        first = ours.values[:, None]
        return first, theirs.values[:, None], first.new_ones(first.shape[:2], dtype=torch.bool)
    mask = same_tokens(ours, theirs)
    return ours.values[:, : mask.shape[1]], theirs.values[:, : mask.shape[1]], mask


def check_forms(ours: View, theirs: View) -> None:
    """Refuse features that cannot be compared position by position.

    Raises:
        AttarError: one is a map and the other tokens, for example.
    """
    if ours.values.ndim != theirs.values.ndim or ours.is_attention != theirs.is_attention:
        raise AttarError(
            f"'{ours.name}' of the student has the shape {tuple(ours.values.shape)} and '{theirs.name}' of the teacher "
            f"{tuple(theirs.values.shape)}; features of one form are compared. Pair other features."
        )


def same_grid(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two maps ``(examples, channels, height, width)`` averaged to the smaller height and width."""
    grid = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
    pooled = [
        maps if maps.shape[2:] == grid else torch.nn.functional.adaptive_avg_pool2d(maps, grid)
        for maps in (ours, theirs)
    ]
    return pooled[0], pooled[1]
