"""Fit grids to weights: the values that a few bits a weight can express, in groups with a scale of their own.

What is stored of a weight is its code on the grid, ``0 .. 2^bits - 1``; the weight itself stays in float32, exactly on
the grid, so that every library reads it and its codes are found again by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Format = Literal["nbits", "q8_0", "q4_0", "q4_1"]
"""How weights are stored.

``nbits``: ONNX Runtime's MatMulNBits, float16 scales and zero points that are codes themselves. ``q8_0``, ``q4_0``,
``q4_1``: llama.cpp's blocks of 32 weights with float16 scales; ``q4_1`` with a float16 minimum.
"""
FIXED: dict[Format, tuple[int, bool]] = {"q8_0": (8, True), "q4_0": (4, True), "q4_1": (4, False)}
"""Bits and symmetry of the formats that have only one of each."""
BLOCK = 32
"""Weights in a block of llama.cpp."""
FACTORS = (1.0, 1.12, 1.06, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Shares of a group's range that are tried: to clip the farthest weights can serve all others. The whole comes first,
so weights that lie on a grid already stay there. Above 1 serves symmetric grids, which have a code less on one side."""
REFITS = 2
"""Times the scale is fitted to the codes again by least squares."""
ROWS = 4096
"""Rows of a matrix that are fitted at once."""


@dataclass(frozen=True)
class Scheme:
    """Say what grids a weight gets.

    Args:
        bits: of a code.
        group: weights of a row that share a scale; 0 for the whole row.
        symmetric: the grid reaches as far below 0 as above; else it has a zero point, or a minimum (q4_1).
        format: see `Format`.

    Raises:
        AttarError: the format does not have such grids.

    Example:
        >>> Scheme(4, 32, True, "q4_0").stored_bits(576)
        4.5
    """

    bits: int
    group: int = 32
    symmetric: bool = False
    format: Format = "nbits"

    def __post_init__(self) -> None:
        fixed = FIXED.get(self.format)
        if fixed is not None and (self.bits, self.symmetric, self.group) != (*fixed, BLOCK):
            kind = "symmetric" if fixed[1] else "not symmetric"
            raise AttarError(
                f"The format {self.format} has {fixed[0]} bits in groups of {BLOCK} and is {kind}, got {self.bits} "
                f"bits in groups of {self.group}. Choose those, or the format nbits."
            )

    def width(self, inputs: int) -> int:
        """Return how many of a row's weights share a scale.

        Raises:
            AttarError: groups of that size do not fill a row.
        """
        width = self.group or inputs
        if inputs % width:
            fitting = [size for size in (16, 32, 64, 128) if inputs % size == 0]
            advice = f"Take {' or '.join(map(str, fitting))}." if fitting else "Keep the layer in float (keep)."
            raise AttarError(f"Groups of {width} weights do not fill a row of {inputs}. {advice}")
        return width

    def stored_bits(self, inputs: int) -> float:
        """Return the bits of a weight with its share of scale and zero point."""
        if self.format in FIXED:
            return self.bits + (16 if self.symmetric else 32) / BLOCK
        return self.bits + (16 + (0 if self.symmetric else self.bits)) / self.width(inputs)

    def to_json(self, inputs: int) -> dict[str, Any]:
        """Return the facts of a weight whose rows have so many inputs."""
        return {
            "bits": self.bits,
            "group": self.width(inputs),
            "symmetric": self.symmetric,
            "format": self.format,
        }


def scheme_of(bits: int, group: int, symmetric: bool, form: Format) -> Scheme:
    """Return the scheme of so many bits in a family of formats: 8 bits beside q4_0 are q8_0.

    Example:
        >>> scheme_of(8, 32, False, "q4_1").format
        'q8_0'
    """
    if form == "nbits":
        return Scheme(bits, group, symmetric, form)
    fitting: Format = "q8_0" if bits == 8 else form
    return Scheme(bits, group, FIXED[fitting][1], fitting)


@dataclass(frozen=True)
class Grid:
    """Hold the values that weights ``(out, in)`` may take: ``scale · (code - zero)``, or ``scale · code + minimum``.

    Args:
        bits: of a code.
        scale: ``(out, groups)`` float32; below 0 where a symmetric grid reaches farther up than down.
        zero: ``(out, groups)`` uint8, the code of 0; None for the one in the middle, ``2^(bits - 1)``.
        minimum: ``(out, groups)`` float32, the value of code 0; None where there is a zero.

    Example:
        >>> import torch
        >>> grid = Grid(2, torch.tensor([[0.5]]))
        >>> grid.round(torch.tensor([[-9.0, -0.3, 0.1, 9.0]])).tolist()
        [[-1.0, -0.5, 0.0, 0.5]]
    """

    bits: int
    scale: torch.Tensor
    zero: torch.Tensor | None = None
    minimum: torch.Tensor | None = None

    @property
    def most(self) -> int:
        """Return the highest code."""
        return int(2**self.bits - 1)

    def places(self, weight: torch.Tensor) -> torch.Tensor:
        """Return where weights ``(out, in)`` lie on the grid, in steps above code 0: not rounded, not clipped."""
        spread, scale = self._spread(weight), self.scale[..., None]
        above = spread if self.minimum is None else spread - self.minimum[..., None]
        steps = torch.where(scale == 0, torch.zeros_like(above), above / scale)
        return (steps + self.origin()).reshape(weight.shape)

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the nearest codes ``(out, in)`` uint8."""
        return self.places(weight).round().clamp(0, self.most).to(torch.uint8)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the weights ``(out, in)`` float32 that codes stand for."""
        steps = (self._spread(codes).float() - self.origin()) * self.scale[..., None]
        return (steps if self.minimum is None else steps + self.minimum[..., None]).reshape(codes.shape)

    def round(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the nearest values of the grid ``(out, in)``."""
        return self.values(self.codes(weight))

    def inside(self, weight: torch.Tensor) -> torch.Tensor:
        """Return which weights are rounded and not clipped ``(out, in)``."""
        places = self.places(weight)
        return (places >= -0.5) & (places <= self.most + 0.5)

    def part(self, first: int, last: int) -> Grid:
        """Return the grid of some groups; it shares their memory."""
        return self._mapped(lambda tensor: tensor[:, first:last])

    def _spread(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(*self.scale.shape, -1)

    def origin(self) -> torch.Tensor | float:
        """Return the code that steps are counted from: ``(out, groups, 1)``, or one number."""
        if self.minimum is not None:
            return 0.0
        return float(2 ** (self.bits - 1)) if self.zero is None else self.zero[..., None].float()

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Grid:
        zero = None if self.zero is None else change(self.zero)
        return Grid(self.bits, change(self.scale), zero, None if self.minimum is None else change(self.minimum))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return what a model keeps beside the weight of that name."""
        every = {"scale": self.scale, "zero": self.zero, "minimum": self.minimum}
        return {f"{name}.{part}": tensor for part, tensor in every.items() if tensor is not None}


def grids_of(model: Model) -> dict[str, Grid]:
    """Return the grid of each quantized weight of a model, by the parameter's name."""
    kept = model.tensors
    return {
        name: Grid(facts["bits"], kept[f"{name}.scale"], kept.get(f"{name}.zero"), kept.get(f"{name}.minimum"))
        for name, facts in model.facts.get("quantized", {}).items()
    }


def fit(weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None, search: bool = True) -> Grid:
    """Return grids on which weights lose little when each is rounded to the nearest value.

    Without a search a group's farthest weights are its ends: a symmetric grid puts the farthest of all on code 0, as
    llama.cpp and ONNX Runtime do (q8_0 alone uses codes of equal reach on both sides). The search tries shares of that
    range and fits the scale to the codes by least squares, and keeps what has the smallest squared error.

    Args:
        weight: ``(out, in)``, finite.
        scheme: see `Scheme`.
        importance: ``(in,)`` of each input in the error, such as its mean square; None for all the same.
        search: try more than the whole range.

    Raises:
        AttarError: groups do not fill a row.
    """
    width = scheme.width(weight.shape[1])
    weights = None if importance is None else importance.float().reshape(-1, width)
    parts = [_fit(rows.float().reshape(len(rows), -1, width), scheme, weights, search) for rows in weight.split(ROWS)]
    zeros = [grid.zero for grid in parts if grid.zero is not None]
    minima = [grid.minimum for grid in parts if grid.minimum is not None]
    zero, minimum = torch.cat(zeros) if zeros else None, torch.cat(minima) if minima else None
    return Grid(scheme.bits, torch.cat([grid.scale for grid in parts]), zero, minimum)


def _fit(groups: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None, search: bool) -> Grid:
    """Fit grids to groups ``(out, groups, width)``."""
    grid = _from_ends(groups, scheme, 1.0)
    if not search:
        return grid
    weights = torch.ones(()) if importance is None else importance
    error = _error(groups, grid, weights)
    for factor in FACTORS[1:]:
        grid, error = _better(groups, (grid, error), _from_ends(groups, scheme, factor), weights)
    for _ in range(REFITS):
        grid, error = _better(groups, (grid, error), _least_squares(groups, grid, weights, scheme), weights)
    return grid


def _from_ends(groups: torch.Tensor, scheme: Scheme, factor: float) -> Grid:
    """Return the grids between the ends of a share of each group's range."""
    low, high = groups.amin(-1), groups.amax(-1)
    steps, keep = 2**scheme.bits - 1, _kept(scheme)
    if scheme.format == "q8_0":
        return Grid(8, keep(torch.maximum(-low, high) * factor / 127))
    if scheme.symmetric:
        farthest = torch.where(-low > high, low, high)
        return Grid(scheme.bits, keep(farthest * factor / -(2 ** (scheme.bits - 1))))
    if scheme.format == "q4_1":
        middle = (low + high) / 2
        return Grid(4, keep((high - low) * factor / steps), None, keep(middle + (low - middle) * factor))
    low, high = low.clamp(max=0), high.clamp(min=0)  # 0 is a value of the grid
    whole = (high - low) / steps
    zero = torch.where(whole == 0, torch.zeros_like(low), -low / whole).round().clamp(0, steps)
    return Grid(scheme.bits, whole * factor, zero.to(torch.uint8))


def _least_squares(groups: torch.Tensor, grid: Grid, importance: torch.Tensor, scheme: Scheme) -> Grid:
    """Return the grids whose scales (and minima) fit the codes that the weights have now."""
    flat = groups.reshape(len(groups), -1)
    steps, keep = grid.codes(flat).reshape(groups.shape).float() - grid.origin(), _kept(scheme)
    weights = importance.expand_as(groups)
    if grid.minimum is None:
        scale = (weights * steps * groups).sum(-1) / (weights * steps**2).sum(-1)
        return replace(grid, scale=torch.where(scale.isfinite(), keep(scale), grid.scale))
    total = weights.sum(-1)
    x, y = (weights * steps).sum(-1) / total, (weights * groups).sum(-1) / total
    spread = (weights * (steps - x[..., None]) ** 2).sum(-1)
    scale = (weights * (steps - x[..., None]) * (groups - y[..., None])).sum(-1) / spread
    good = scale.isfinite() & (scale > 0)
    return replace(
        grid,
        scale=torch.where(good, keep(scale), grid.scale),
        minimum=torch.where(good, keep(y - keep(scale) * x), grid.minimum),
    )


def _kept(scheme: Scheme) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return how the format keeps scales: in float16; outside llama.cpp, a scale too small or large for it stays."""
    if scheme.format in FIXED:
        return lambda value: value.half().float()

    def keep(value: torch.Tensor) -> torch.Tensor:
        """Return the nearest value of float16 that is neither 0 nor infinite."""
        near = value.half().float()
        return torch.where(near.isfinite() & (near != 0), near, value)

    return keep


def _error(groups: torch.Tensor, grid: Grid, importance: torch.Tensor) -> torch.Tensor:
    flat = groups.reshape(len(groups), -1)
    return ((grid.round(flat).reshape(groups.shape) - groups).square() * importance).sum(-1)


def _better(
    groups: torch.Tensor, best: tuple[Grid, torch.Tensor], other: Grid, importance: torch.Tensor
) -> tuple[Grid, torch.Tensor]:
    """Return of each group the grid with the smaller error, and the error."""
    grid, error = best
    found = _error(groups, other, importance)
    wins = found < error

    def choose(new: torch.Tensor | None, old: torch.Tensor | None) -> torch.Tensor | None:
        """Return the winners' tensors."""
        return None if new is None or old is None else torch.where(wins, new, old)

    scale = torch.where(wins, other.scale, grid.scale)
    chosen = Grid(grid.bits, scale, choose(other.zero, grid.zero), choose(other.minimum, grid.minimum))
    return chosen, torch.where(wins, found, error)
