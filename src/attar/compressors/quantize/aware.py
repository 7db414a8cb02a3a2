"""Train a quantized model: its weights are rounded in each forward pass, and learn as if they were not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attar.compressors.quantize.grid import Grid, grids_of
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class StraightThrough(torch.autograd.Function):
    """Round to a grid; the gradient passes as it is where a weight was rounded, and is 0 where it was clipped.

    Reference:
        Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
        Computation", section 4 (the straight-through estimator).
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Return the nearest values of the grid."""
        ctx.save_for_backward(grid.inside(weight))
        return grid.round(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient of the weight, and none of the grid."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


class _Rounded(torch.nn.Module):
    """Give a weight rounded to a grid. The grid is fixed: it moves with the module and is not saved with it."""

    scale: torch.Tensor
    zero: torch.Tensor | None
    minimum: torch.Tensor | None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.bits = grid.bits
        for name in ("scale", "zero", "minimum"):
            self.register_buffer(name, getattr(grid, name), persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rounded weight."""
        grid = Grid(self.bits, self.scale, self.zero, self.minimum)
        rounded: torch.Tensor = StraightThrough.apply(weight, grid)
        return rounded


@contextmanager
def fake_quantized(model: Model) -> Iterator[Model]:
    """Let a quantized model compute with rounded weights, and its parameters learn in float, while the context lasts.

    A whole training lies inside, the making of its optimizer too: the parameters are those of outside, under names of
    their own (``...parametrizations.weight.original``), so that checkpoints written inside are read inside. On the way
    out they have their plain names again and are put on the grid. Weights that are frozen lie on the grid already, and
    are not rounded again.

    Args:
        model: quantized weight by weight; is changed in place.

    Raises:
        AttarError: the model is not quantized.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 1, bias=False)
        >>> facts = {"quantized": {"weight": {"bits": 2}}}
        >>> model = Model(layer, "net", facts=facts, tensors={"weight.scale": torch.tensor([[0.5]])})
        >>> with fake_quantized(model):
        ...     layer.parametrizations.weight.original.data.fill_(0.4)
        ...     layer.weight[0, 0].item()
        tensor([[0.4000, 0.4000, 0.4000, 0.4000]])
        0.5
    """
    from torch.nn.utils import parametrize

    grids = grids_of(model)
    if not grids:
        raise AttarError("Only a quantized model can be trained with its weights rounded. Quantize it first.")
    owners = _owners(model.module, {n for n, p in model.module.named_parameters() if n in grids and p.requires_grad})
    try:
        for part, attribute, name in owners:
            parametrize.register_parametrization(part, attribute, _Rounded(grids[name]))
        yield model
    finally:
        for part, attribute, _ in owners:
            if parametrize.is_parametrized(part, attribute):
                parametrize.remove_parametrizations(part, attribute, leave_parametrized=False)
        settle(model)


def _owners(module: torch.nn.Module, names: set[str]) -> list[tuple[torch.nn.Module, str, str]]:
    """Return all parts that hold one of the parameters, and under which name: a tied weight has several."""
    wanted = {id(parameter): name for name, parameter in module.named_parameters() if name in names}
    return [
        (part, attribute, wanted[id(parameter)])
        for part in module.modules()
        for attribute, parameter in part.named_parameters(recurse=False)
        if id(parameter) in wanted
    ]


def settle(model: Model) -> None:
    """Put the weights of a quantized model on their grids, in place."""
    parameters = dict(model.module.named_parameters())
    for name, grid in grids_of(model).items():
        weight = parameters[name].data
        weight.copy_(grid.round(weight))
