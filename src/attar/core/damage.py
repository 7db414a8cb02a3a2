"""Measure what each layer of a transformer does, so that a student keeps those whose loss hurts most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.layers import layer_list
from attar.core.nouns import Model, Task
from attar.errors import AttarError
from attar.log import progress
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Measure = Literal["influence", "kl", "loss"]
"""How a layer's damage is measured.

``influence``: 1 - the cosine between what goes into the layer and what comes out, mean over tokens; one forward pass
for all layers. ``kl``: the divergence from the whole model's answers when the layer is left out; one pass a layer.
``loss``: the rise of the task's loss when it is left out; one pass a layer.
"""
BATCH = 4
"""Examples that are read at once where a layer is left out: what the whole model says of them is kept the while."""
WORST = 1e30
"""Damage where what a model says without the layer is no number."""
ROWS = 256
"""Rows whose scores are laid out at once."""


@dataclass(frozen=True)
class Damage:
    """Hold which layers were kept, and why.

    Args:
        measure: see `Measure`.
        damage: of each layer, ``(layers,)``; with ``greedy``, of a layer left out at the moment it was.
        kept: the layers kept, ascending.
        texts: examples it was measured on.
        greedy: one layer was left out at a time, and the others were measured again.
    """

    measure: Measure
    damage: tuple[float, ...]
    kept: tuple[int, ...]
    texts: int
    greedy: bool

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {**asdict(self), "damage": [round(value, 6) for value in self.damage], "kept": list(self.kept)}


def choose_by_damage(
    model: Model, task: Task, examples: Examples, keep: int, measure: Measure, texts: int = 16, greedy: bool = False
) -> Damage:
    """Return which layers of a whole model to keep; equal arguments give equal layers.

    Args:
        model: the whole model; it is left as it was.
        task: turns examples into its inputs and rows.
        examples: of the training split.
        keep: how many layers.
        measure: what to measure; see `Measure`.
        texts: how many of the examples are used, evenly spread.
        greedy: leave out one layer at a time, and measure the others again.

    Raises:
        AttarError: the model has no stack of layers or fewer than asked for, or no example has a row.

    Reference:
        Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", equation 1
        (block influence, the measure ``influence``).
    """
    count = len(layer_list(model.module)[2])
    if keep > count:
        raise AttarError(f"layers cannot be kept: the model has {count} layers, got {keep}.")
    places = np.unique(np.linspace(0, max(len(examples) - 1, 0), min(texts, len(examples))).round().astype(int))
    some = examples.take(places)
    damage, gone = layer_damage(model, task, some, measure), list[int]()
    while greedy and len(gone) < count - keep:
        if gone:
            fresh = layer_damage(model, task, some, measure, gone)
            damage = np.where(np.isnan(fresh), damage, fresh)
        gone.append(_least(damage, gone))
    while len(gone) < count - keep:
        gone.append(_least(damage, gone))
    kept = tuple(i for i in range(count) if i not in gone)
    return Damage(measure, tuple(float(value) for value in damage), kept, len(some), greedy)


def _least(damage: np.ndarray, gone: Sequence[int]) -> int:
    """Return the layer of least damage that is still there; of equals, the last."""
    left = [i for i in range(len(damage)) if i not in gone]
    return min(left, key=lambda i: (damage[i], -i))


def layer_damage(
    model: Model, task: Task, examples: Examples, measure: Measure, gone: Sequence[int] = ()
) -> np.ndarray:
    """Return the damage of leaving each layer out ``(layers,)``; NaN for those that are gone already.

    For ``influence`` examples are read one at a time, so there is no padding to leave out of a mean.

    Args:
        model: a transformer; it is put in evaluation mode for the time, and left as it was.
        task: turns examples into its inputs and rows.
        examples: what it is measured on; for tasks that write, with target texts.
        measure: see `Measure`.
        gone: layers that are left out throughout.

    Raises:
        AttarError: no example has a row.
    """
    layers = list(layer_list(model.module)[2])
    left = [i for i in range(len(layers)) if i not in gone]
    was_training = model.module.training
    model.module.eval()
    total, weight = np.zeros(len(layers)), 0.0
    try:
        with torch.inference_mode(), _without(layers, gone), progress("measuring layers", len(examples)) as bar:
            order = np.argsort(task.length(model, examples), kind="stable")
            size = 1 if measure == "influence" else BATCH
            probe = _influence if measure == "influence" else _removal(measure)
            for first in range(0, len(order), size):
                some = examples.take(order[first : first + size])
                own, found = probe(_Probe(model, task, some, layers), left)
                total[left] += own
                weight += found
                bar.advance(len(some), measure)
    finally:
        model.module.train(was_training)
    if weight == 0:
        raise AttarError(
            f"Layers cannot be chosen by {measure}: no training example says what is to be compared. Give the training "
            "split labels or target texts (data.gold), or give layers as a number."
        )
    # not finite: without this layer the model says nothing at all
    damage = np.nan_to_num(total / weight, nan=WORST, posinf=WORST)
    damage[list(gone)] = np.nan
    return damage


@dataclass(frozen=True)
class _Probe:
    """Ask a model a few examples, with layers left out or watched."""

    model: Model
    task: Task
    examples: Examples
    layers: Sequence[torch.nn.Module]

    def log_p(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return log-probabilities in parts of `ROWS` rows, and the targets."""
        batch = self.task.collate(self.model, self.examples)
        rows = self.task.rows(self.model, batch)
        parts = [torch.log_softmax(rows.take(part).dense().float(), dim=-1) for part in rows.slices(ROWS)]
        return parts, batch.targets.to(rows.key.device)


def _influence(probe: _Probe, left: Sequence[int]) -> tuple[np.ndarray, float]:
    """Return the summed 1 - cosine of each layer over the example's tokens, and how many tokens there are."""
    found: dict[int, tuple[float, int]] = {}
    with ExitStack() as undo:
        for place in left:
            undo.enter_context(_watched(probe.layers[place], place, found))
        probe.task.rows(probe.model, probe.task.collate(probe.model, probe.examples))
    if len(found) < len(left):  # an example that the task has no row for is not read
        return np.zeros(len(left)), 0.0
    return np.array([found[i][0] for i in left]), float(found[left[0]][1]) if left else 0.0


def _turn(given: torch.Tensor, gave: torch.Tensor) -> tuple[float, int]:
    cosine = torch.nn.functional.cosine_similarity(given.float(), gave.float(), dim=-1)
    return float((1 - cosine).double().sum()), cosine.numel()


def _removal(measure: Measure) -> Callable[[_Probe, Sequence[int]], tuple[np.ndarray, float]]:
    compare = _kl if measure == "kl" else _rise

    def probe(one: _Probe, left: Sequence[int]) -> tuple[np.ndarray, float]:
        """Return the summed damage of each layer over the examples' rows, and how many rows count."""
        whole, targets = one.log_p()
        count = sum(len(part) for part in whole) if measure == "kl" else int((targets != UNKNOWN).sum())
        if count == 0:
            return np.zeros(len(left)), 0.0
        damage = []
        for place in left:
            with _without(one.layers, [place]):
                damage.append(compare(whole, one.log_p()[0], targets))
        return np.array(damage), float(count)

    return probe


def _kl(whole: Sequence[torch.Tensor], other: Sequence[torch.Tensor], targets: torch.Tensor) -> float:
    return sum(float((p.exp() * (p - q)).double().sum()) for p, q in zip(whole, other, strict=True))


def _rise(whole: Sequence[torch.Tensor], other: Sequence[torch.Tensor], targets: torch.Tensor) -> float:
    known = targets != UNKNOWN
    before, after = (torch.cat(list(parts))[known].gather(1, targets[known][:, None]) for parts in (whole, other))
    return float((before - after).double().sum())


def _given(args: Sequence[Any], named: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = args[0] if args else named["hidden_states"]
    return found


@contextmanager
def _watched(layer: torch.nn.Module, place: int, found: dict[int, tuple[float, int]]) -> Iterator[None]:
    """Note how far a layer turns what goes into it."""

    def hook(_: Any, args: Any, named: Any, output: Any) -> None:
        """Note the turn of one pass."""
        found[place] = _turn(_given(args, named), output if isinstance(output, torch.Tensor) else output[0])

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _without(layers: Sequence[torch.nn.Module], gone: Iterable[int]) -> Iterator[None]:
    """Let some layers give what they are given: all others see what they would see without them."""

    def skip(_: Any, args: Any, named: Any, output: Any) -> Any:
        """Give what was given."""
        given = _given(args, named)
        return given if isinstance(output, torch.Tensor) else (given, *output[1:])

    handles = [layers[place].register_forward_hook(skip, with_kwargs=True) for place in gone]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
