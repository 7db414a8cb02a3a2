"""Collect what goes into the linear layers of a model: means of squares and magnitudes, and Hessians."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Batch, Model, Task
from attar.core.places import stack
from attar.errors import AttarError
from attar.log import progress
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Want = Literal["square", "mean_abs", "hessian"]
CHEAP: frozenset[Want] = frozenset({"square", "mean_abs"})
BATCH = 4
"""Examples that are read at once."""


@dataclass(frozen=True)
class Statistics:
    """Hold what went into one layer, padding left out.

    For a convolution an input channel is a column of the unfolded image: ``in`` is channels · height · width of the
    kernel, those of all its groups one after the other.

    Args:
        count: tokens (or places of a convolution's kernel) that were read.
        square: ``(in,)`` float32, the mean of x².
        mean_abs: ``(in,)`` float32, the mean of abs(x).
        hessian: ``(in, in)`` float32, the mean of x xᵀ; None where it was not asked for, and for convolutions in
            groups, whose groups do not meet.
    """

    count: int
    square: torch.Tensor
    mean_abs: torch.Tensor
    hessian: torch.Tensor | None = None

    def scaled(self, by: torch.Tensor) -> Statistics:
        """Return the statistics of the inputs times ``by (in,)``, all above 0."""
        hessian = None if self.hessian is None else self.hessian * by[:, None] * by
        return Statistics(self.count, self.square * by**2, self.mean_abs * by, hessian)


def collect(
    model: Model,
    task: Task,
    examples: Examples,
    want: Collection[Want] = CHEAP,
    names: Collection[str] | None = None,
) -> dict[str, Statistics]:
    """Return what goes into the linear layers and convolutions of a model while it reads some examples.

    A Hessian takes 4 · in² bytes a layer: 1.3 MB for 576 inputs, 9.4 MB for 1536. A model with many wide layers asks
    for a few ``names`` at a time, or takes `layer_by_layer`. A head that only its task multiplies by (that of a
    language model) is never run as a layer, and is not among the results.

    Args:
        model: is put in evaluation mode for the time, and left as it was.
        task: turns examples into the model's inputs and rows.
        examples: what it reads; for tasks that write, with target texts.
        want: ``hessian`` is computed where it is in here; the two others are always there.
        names: of the modules; None for every `torch.nn.Linear` and `torch.nn.Conv2d`.

    Returns:
        Name of the module -> its statistics, for those that were run.

    Raises:
        AttarError: a name is none of such a module, or no example is read at all.
    """
    found = _chosen(model.module, names)
    with watched(found, want) as watch, _reading(model), torch.no_grad():
        for batch in batches(model, task, examples, "reading activations"):
            watch.mask = tokens(batch)
            task.rows(model, batch)
    results = watch.statistics()
    if not results:
        raise AttarError(NOTHING_READ)
    return results


def layer_by_layer(
    model: Model, task: Task, examples: Examples, want: Collection[Want] = CHEAP
) -> Iterator[tuple[str, torch.nn.Module, dict[str, Statistics]]]:
    """Yield each layer of a transformer's stack with what goes into its linear layers, in order.

    What the caller does to a layer's weights before it asks for the next one, the next ones see in their inputs. The
    inputs of one layer are held at a time: 4 · tokens · width bytes.

    Args:
        model: is put in evaluation mode for the time, and left as it was.
        task: see `collect`.
        examples: see `collect`.
        want: see `collect`.

    Yields:
        The layer's name, the layer, and full name of a linear layer inside -> its statistics.

    Raises:
        AttarError: the model has no single stack of layers, or no example is read at all.
    """
    layers = list(stack(model.module).children())
    names = {part: name for name, part in model.module.named_modules()}
    with _reading(model):
        held = [_hold(model, task, batch, layers) for batch in batches(model, task, examples, "reading examples")]
        held = [one for one in held if one.arguments]
        if not held:
            raise AttarError(NOTHING_READ)
        with progress("layer by layer", len(layers)) as bar:
            for place, layer in enumerate(layers):
                inside = {f"{names[layer]}.{name}": part for name, part in _chosen(layer, None).items()}
                yield names[layer], layer, _through(held, layer, place, inside, want)
                for one in held:
                    one.hidden = one.run(layer, place)
                bar.advance(1, names[layer])


NOTHING_READ = (
    "No calibration example is read by the model: a task that writes reads only examples with a target text. "
    "Give the training split labels or target texts (data.gold), or a teacher that writes them."
)


def without_cache(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer's arguments without the cache of keys and values: it would grow each time the layer is run."""
    return {name: None if hasattr(value, "get_seq_length") else value for name, value in named.items()}


def batches(model: Model, task: Task, examples: Examples, title: str) -> Iterator[Batch]:
    """Yield the examples in batches of a few, those of like length together."""
    order = np.argsort(task.length(model, examples), kind="stable")
    with progress(title, len(examples)) as bar:
        for first in range(0, len(order), BATCH):
            some = examples.take(order[first : first + BATCH])
            yield task.collate(model, some)
            bar.advance(len(some), "")


def tokens(batch: Batch) -> torch.Tensor | None:
    """Return which tokens of a batch anything depends on ``(batch, time)``; None where all do, as in images.

    A batch with an attention mask says so itself. One of a task that writes has none, as causal attention never looks
    at padding: there each example is read up to the token that predicts its last one.
    """
    inputs = batch.inputs
    if "attention_mask" in inputs:
        return inputs["attention_mask"].bool()
    if "time" not in inputs:
        return None
    ids = inputs["input_ids"]
    last = torch.full((len(ids),), -1).scatter_reduce(0, inputs["example"], inputs["time"], "amax")
    return torch.arange(ids.shape[1]) <= last[:, None]


@contextmanager
def watched(modules: Mapping[str, torch.nn.Module], want: Collection[Want]) -> Iterator[Watch]:
    """Add up what goes into some modules while the context lasts; ``mask`` of what is yielded is set by the caller."""
    watch = Watch("hessian" in want)
    handles = [part.register_forward_pre_hook(watch.hook(name), with_kwargs=True) for name, part in modules.items()]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
        watch.forget()


@dataclass
class Watch:
    """Add up what goes into modules.

    Args:
        hessians: tells whether products are added up too.
        mask: ``(batch, time)`` which tokens count; None for all.
    """

    hessians: bool
    mask: torch.Tensor | None = None
    _sums: dict[str, list[Any]] = field(default_factory=dict)
    _last: tuple[Any, Any] = (None, None)

    def hook(self, name: str) -> Any:
        """Return a forward pre-hook that adds to the sums of one module."""

        def add(module: torch.nn.Module, args: Any, named: Any) -> None:
            """Add what goes in."""
            given = args[0] if args else named["input"]
            # query, key and value read one tensor: their sums are computed once
            if self._last[0] is not given or isinstance(module, torch.nn.Conv2d):
                self._last = (given, self._parts(module, given.detach()))
            parts = self._last[1]
            old = self._sums.get(name)
            self._sums[name] = list(parts) if old is None else [_plus(a, b) for a, b in zip(old, parts, strict=True)]

        return add

    def _parts(self, module: torch.nn.Module, given: torch.Tensor) -> tuple[Any, ...]:
        """Return count, sums of squares and of magnitudes ``(in,)``, and of products ``(in, in)`` or None."""
        rows = _unfolded(module, given) if isinstance(module, torch.nn.Conv2d) else self._real(given)
        rows = rows.float()
        meets = self.hessians and getattr(module, "groups", 1) == 1
        return len(rows), rows.square().sum(0), rows.abs().sum(0), rows.T @ rows if meets else None

    def _real(self, given: torch.Tensor) -> torch.Tensor:
        rows = given.flatten(0, -2) if given.ndim > 1 else given[None]
        # what was pooled has a row an example, and no padding
        if self.mask is None or len(rows) != self.mask.numel():
            return rows
        return rows[self.mask.flatten().to(rows.device)]

    def statistics(self) -> dict[str, Statistics]:
        """Return the means, of the modules that were given something."""
        return {
            name: Statistics(count, square / count, size / count, None if product is None else product / count)
            for name, (count, square, size, product) in self._sums.items()
            if count
        }

    def forget(self) -> None:
        """Let go of the last input."""
        self._last = (None, None)


def _plus(a: Any, b: Any) -> Any:
    return None if a is None else a + b


def _unfolded(module: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Return what the kernel of a convolution sees, ``(places, channels · height · width)``."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = torch.nn.functional.pad(images, module._reversed_padding_repeated_twice, mode=mode)
    options: Any = {"dilation": module.dilation, "stride": module.stride}
    columns = torch.nn.functional.unfold(padded, module.kernel_size, **options)
    return columns.transpose(1, 2).flatten(0, 1)


def _chosen(module: torch.nn.Module, names: Collection[str] | None) -> dict[str, torch.nn.Module]:
    every = {name: part for name, part in module.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)}
    unknown = sorted(set(names or ()) - every.keys())
    if unknown:
        raise AttarError(
            f"Activations are collected of linear layers and convolutions, and '{unknown[0]}' is none of "
            f"{type(module).__name__}. Give names such as '{next(iter(every), 'none')}'."
        )
    chosen = every if names is None else names
    return {name: every[name] for name in chosen}


@contextmanager
def _reading(model: Model) -> Iterator[None]:
    was_training = model.module.training
    model.module.eval()
    try:
        yield
    finally:
        model.module.train(was_training)


@dataclass
class _Held:
    """Hold what goes into a layer for one batch, and each layer's other arguments.

    Args:
        mask: see `tokens`.
        hidden: ``(batch, time, width)``.
        arguments: of each layer, what it is given beside.
    """

    mask: torch.Tensor | None
    hidden: Any = None
    arguments: list[tuple[Any, Any]] = field(default_factory=list)

    def run(self, layer: torch.nn.Module, place: int) -> Any:
        """Return what the layer gives."""
        args, named = self.arguments[place]
        with torch.no_grad():
            gave = layer(self.hidden, *args, **named)
        return gave if isinstance(gave, torch.Tensor) else gave[0]


def _hold(model: Model, task: Task, batch: Batch, layers: list[torch.nn.Module]) -> _Held:
    """Return what goes into the first layer; kinds of layers differ in their masks, so each keeps its own."""
    held = _Held(tokens(batch))

    def hook(_: Any, args: Any, named: Any) -> None:
        """Keep what is given."""
        rest = {name: value for name, value in without_cache(named).items() if name != "hidden_states"}
        if not held.arguments:
            held.hidden = args[0] if args else named["hidden_states"]
        held.arguments.append((args[1:], rest))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            task.rows(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return held


def _through(
    held: list[_Held], layer: torch.nn.Module, place: int, inside: dict[str, torch.nn.Module], want: Collection[Want]
) -> dict[str, Statistics]:
    """Return what goes into the modules inside a layer."""
    with watched(inside, want) as watch:
        for one in held:
            watch.mask = one.mask
            one.run(layer, place)
    return watch.statistics()
