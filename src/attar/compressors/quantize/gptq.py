"""Round weights one input at a time, and let those that follow make good what was lost (GPTQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.compressors.quantize.grid import Grid, Scheme, fit
from attar.compressors.quantize.round import SEARCHED_BELOW, counted
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BLOCK = 128
"""Inputs whose updates of all later ones are done at once."""
DAMPING = 0.01
"""Share of the Hessian's mean diagonal that is added to it."""
TRIES = 4
"""Times the damping is raised tenfold where the Hessian still has no inverse."""


def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme, order: bool = True, damping: float = DAMPING
) -> tuple[torch.Tensor, Grid]:
    """Return a weight on its grid ``(out, in)``, and the grid.

    Args:
        weight: ``(out, in)``.
        hessian: ``(in, in)``, the mean of x xᵀ of what goes into the layer.
        scheme: see `attar.compressors.quantize.grid.Scheme`.
        order: round the inputs of the largest mean square first. Groups stay those of neighbors, with scales fitted
            before the first rounding ("static groups"). Else inputs come in their order, and each group's scales are
            fitted when its turn comes, to the weights as they are by then.
        damping: above 0; see `DAMPING`.

    Raises:
        AttarError: the Hessian has no inverse.

    Reference:
        Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        algorithm 1.
    """
    width, importance = scheme.width(weight.shape[1]), counted(hessian.diagonal())
    grid = fit(weight, scheme, importance, scheme.bits < SEARCHED_BELOW)
    places = torch.arange(weight.shape[1])
    if order:
        places = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    factor = inverse_factor(hessian[places][:, places], damping)
    rest = weight.float()[:, places].clone()
    done = torch.zeros_like(rest)
    block = width * max(1, BLOCK // width)  # a group begins with a block or lies inside one
    for first in range(0, rest.shape[1], block):
        last = min(first + block, rest.shape[1])
        errors = torch.zeros_like(rest[:, first:last])
        for now in range(first, last):
            group = int(places[now]) // width
            if not order and now % width == 0:
                ahead = slice(now, now + width)
                _refit(grid, group, rest[:, ahead], scheme, importance[ahead])
            column = rest[:, now]
            done[:, now] = grid.part(group, group + 1).round(column[:, None])[:, 0]
            error = (column - done[:, now]) / factor[now, now]
            rest[:, now + 1 : last] -= torch.outer(error, factor[now, now + 1 : last])
            errors[:, now - first] = error
        rest[:, last:] -= errors @ factor[first:last, last:]
    return done[:, torch.argsort(places)], grid


def _refit(grid: Grid, group: int, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor) -> None:
    own = fit(weight, Scheme(scheme.bits, weight.shape[1], scheme.symmetric, scheme.format), importance)
    for old, new in ((grid.scale, own.scale), (grid.zero, own.zero), (grid.minimum, own.minimum)):
        if old is not None and new is not None:
            old[:, group] = new[:, 0]


def inverse_factor(hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of a damped Hessian ``(in, in)``, in float32.

    An input that was never used has no part in any update: its row and column are those of the identity.

    Args:
        hessian: ``(in, in)``.
        damping: share of the mean diagonal that is added; raised where that is too little.

    Raises:
        AttarError: there is no inverse: the activations are no numbers.
    """
    whole = hessian.double().clone()
    diagonal = whole.diagonal()
    mean = diagonal.mean()
    diagonal[diagonal == 0] = 1.0 if mean == 0 else mean
    for power in range(TRIES):
        damped = whole + damping * 10**power * (mean if mean > 0 else 1.0) * torch.eye(len(whole), dtype=whole.dtype)
        lower, wrong = torch.linalg.cholesky_ex(damped)
        if not wrong:
            upper, wrong = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not wrong and bool(upper.isfinite().all()):
            found: torch.Tensor = upper.float()
            return found
    raise AttarError(
        "GPTQ cannot be done: what goes into a layer is infinite or no number. Check the model, or set method: rtn."
    )
