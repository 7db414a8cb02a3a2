"""Choose which weights become zero, and hold zeros while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from attar.core.nouns import Model
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FACT = "sparse"
"""The fact of a model that zeros of its weights are meant."""


def smallest(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return a mask of the lowest scores along the last dimension, True for those.

    Args:
        scores: ``(..., columns)``.
        ratio: share of each row that is True, rounded to whole columns, in [0, 1].

    Example:
        >>> import torch
        >>> smallest(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), 0.5).tolist()
        [[False, True, True, False]]
    """
    count = round(ratio * scores.shape[-1])
    lowest = scores.topk(count, dim=-1, largest=False, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, lowest, True)


def every(scores: torch.Tensor, among: int) -> torch.Tensor:
    """Return a mask of the lower half of the scores among each so many neighbors of a row, True for those.

    Args:
        scores: ``(rows, columns)``; ``among`` divides columns.
        among: 4 for the pattern 2:4, 8 for 4:8.

    Example:
        >>> import torch
        >>> every(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), 4).tolist()
        [[False, True, True, False]]
    """
    return smallest(scores.unflatten(1, (-1, among)), 0.5).flatten(1)


@contextmanager
def hold_zeros(model: Model) -> Iterator[None]:
    """Keep the zeros of a sparse model at zero through optimizer steps.

    What is zero when the context is entered gets no gradient inside it. An optimizer that works by element, such as
    AdamW, moves a weight only by its gradients and by its own size, so it stays exactly zero: weight decay, momentum
    and a restored checkpoint included. Nothing about the parameters or their names changes, and files are as ever.

    Args:
        model: one that the step ``sparsity`` left; another's weights are all free.
    """
    with ExitStack() as undo:
        for parameter in _sparse(model):
            keep = parameter.detach() != 0
            undo.callback(parameter.register_hook(_masked(keep)).remove)
            undo.callback(_clear, parameter, keep)
        yield


def _sparse(model: Model) -> Iterator[torch.Tensor]:
    """Yield the weights that have zeros and learn; tables may hold rows of zeros that nobody chose, such as padding."""
    if FACT not in model.facts:
        return
    tables = {id(part.weight) for part in model.module.modules() if isinstance(part, torch.nn.Embedding)}
    for part in model.module.modules():
        if not isinstance(part, torch.nn.Linear | torch.nn.Conv2d) or id(part.weight) in tables:
            continue
        if part.weight.requires_grad and bool((part.weight == 0).any()):
            yield part.weight


def _masked(keep: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a hook that takes the gradient away where a weight is held; the model may have moved since."""
    return lambda gradient: gradient * keep.to(gradient.device)


def _clear(parameter: torch.Tensor, keep: torch.Tensor) -> None:
    """Set what was held to zero once more, whatever the optimizer was."""
    parameter.data.mul_(keep.to(parameter.device))
