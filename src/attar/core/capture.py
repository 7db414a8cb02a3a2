"""Keep what layers give during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Batch, Model, Task
from attar.core.places import FeatureError, Place, find
from attar.core.rows import Rows
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@contextmanager
def capture(module: torch.nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Fill a mapping with features during a forward pass, and leave the network as it was.

    While attention probabilities are kept, all attention is computed eagerly (the fused kernels never lay them out),
    and the attention of the layers kept has no dropout: else the probabilities would be those with holes.

    Args:
        module: the network.
        names: of features; see `attar.core.places.find`. ``hidden:*`` fills ``hidden:0``, ``hidden:1`` and so on.

    Yields:
        name -> tensor, with gradient if the forward pass has it; empty before it.

    Raises:
        FeatureError: the network has no such feature, or the forward pass did not give it.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> with capture(net, ["0", "pooled"]) as found:
        ...     _ = net(torch.zeros(5, 3))
        >>> {name: tuple(tensor.shape) for name, tensor in sorted(found.items())}
        {'0': (5, 2), 'pooled': (5, 2)}
    """
    places = [place for name in sorted(set(names)) for place in find(module, name)]
    found: dict[str, torch.Tensor] = {}
    with ExitStack() as undo:
        if any(place.kind == "attention" for place in places):
            undo.enter_context(_eager(module))
        for place in places:
            _watch(place, found, undo)
        yield found
    for place in places:
        if place.name not in found:
            raise FeatureError(_absent(module, place))


def _watch(place: Place, found: dict[str, torch.Tensor], undo: ExitStack) -> None:
    def keep(tensor: Any) -> None:
        """Keep what a hook was given."""
        if tensor is not None:
            found[place.name] = tensor

    if place.kind == "input":
        undo.callback(place.module.register_forward_pre_hook(lambda _, given: keep(given[0])).remove)
        return
    pick = PICKS[place.kind]
    if place.kind == "attention":
        undo.callback(setattr, place.module, "training", place.module.training)
        place.module.training = False
        # some models return no probabilities, but give them to a module that drops some
        for part in place.module.children():
            if isinstance(part, torch.nn.Dropout):
                undo.callback(part.register_forward_pre_hook(lambda _, given: keep(pick(given))).remove)
    undo.callback(place.module.register_forward_hook(lambda _, __, output: keep(pick(output))).remove)


def _first(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output
    if hasattr(output, "keys"):
        return next(iter(output.values()), None)
    return output[0] if output else None


def _copy(output: Any) -> Any:
    tensor = _first(output)
    return tensor.clone() if isinstance(tensor, torch.Tensor) else None


def _probabilities(output: Any) -> Any:
    parts = output if isinstance(output, tuple) else (output,)
    return next((part for part in parts if isinstance(part, torch.Tensor) and _likely(part)), None)


def _likely(part: torch.Tensor) -> bool:
    """Tell attention probabilities from the biases that some models return beside them."""
    return part.ndim == 4 and bool(((part >= 0) & (part <= 1.01)).all())


def _image(output: Any) -> Any:
    image = isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1
    return output if image else None


PICKS: dict[str, Callable[[Any], Any]] = {
    "output": _first,
    "copy": _copy,
    "attention": _probabilities,
    "map": _image,
}


@contextmanager
def _eager(module: Any) -> Iterator[None]:
    """Have a model of `transformers` lay out its attention probabilities."""
    before = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if before in (None, "eager") or not hasattr(module, "set_attn_implementation"):
        yield
        return
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def _absent(module: torch.nn.Module, place: Place) -> str:
    name = type(module).__name__
    if place.kind == "attention":
        return (
            f"{name} gave no '{place.name}': its attention does not return probabilities. Load it with "
            'attn_implementation="eager", or compare other features.'
        )
    if place.kind == "map":
        return f"{name} gave no 'map': none of its parts gives an image of more than one pixel."
    return f"{name} gave no '{place.name}': its forward pass does not go through that part, or gives no tensor there."


def rows_with_features(task: Task, model: Model, batch: Batch, names: Iterable[str]) -> Rows:
    """Return what a model says of a batch, with features.

    Texts have one feature more, ``mask`` ``(examples, time)``: True for a token, False for padding. Where the head
    reads every token, ``pooled`` is the last that is no padding.

    Args:
        task: turns the batch into rows.
        model: the network.
        batch: what it reads.
        names: of features; without any this is ``task.rows``.

    Raises:
        FeatureError: the model does not give one of them.
    """
    wanted = frozenset(names)
    if not wanted:
        return task.rows(model, batch)
    with capture(model.module, wanted) as features:
        rows = task.rows(model, batch)
    if "attention_mask" in batch.inputs:
        features["mask"] = batch.inputs["attention_mask"].to(rows.key.device).bool()
        if "pooled" in features and features["pooled"].ndim == 3:
            features["pooled"] = _last_token(features["pooled"], features["mask"])
    return replace(rows, features=features)


def _last_token(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).argmax(dim=-1)
    return states[torch.arange(len(states), device=mask.device), last]


def joined(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put the features of several batches together; what is shorter is filled with 0 at its end.

    Only dimensions of time differ between batches; the feature ``mask`` tells what was filled.

    Args:
        parts: of each batch, name -> ``(examples, ...)``, all with the same names.

    Example:
        >>> import torch
        >>> both = joined([{"mask": torch.ones(1, 1)}, {"mask": torch.ones(1, 2)}])
        >>> both["mask"].tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    return {name: _stacked([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    sizes = [max(dim) for dim in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = []
    for tensor in tensors:
        missing = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
        ends = [end for pair in reversed(missing) for end in pair]  # torch counts from the last dimension
        filled.append(torch.nn.functional.pad(tensor, ends) if any(ends) else tensor)
    return torch.cat(filled)
