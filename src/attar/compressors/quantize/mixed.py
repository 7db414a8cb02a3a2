"""Give more bits to the layers that need them: by measured damage under a mean, or until a floor holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from attar.compressors.activations import NOTHING_READ, batches
from attar.compressors.quantize.grid import Scheme
from attar.compressors.quantize.ledger import Ledger
from attar.compressors.quantize.round import round_to_nearest
from attar.core.examples import Examples
from attar.core.nouns import Batch, Model, Task
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import progress
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

ROWS = 256
"""Rows whose scores are laid out at once."""


class MixedBits(Settings):
    """Set how bits are shared out among the layers.

    Example:
        >>> MixedBits(mean=5.5, choices=(8, 4)).choices
        (4, 8)
    """

    mean: float = Field(gt=2, le=40, description="stored bits a weight, scales and zero points included, on average")
    choices: tuple[int, ...] = Field((4, 8), min_length=2, description="bits that a layer may get, each 2 to 8")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        wrong = [bits for bits in self.choices if not 2 <= bits <= 8]
        if wrong or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must be different numbers from 2 to 8, got {list(self.choices)}")
        object.__setattr__(self, "choices", tuple(sorted(self.choices)))  # settings are frozen once they are made
        return self


class Judge:
    """Compare what a model says with what it said when the judge was made.

    Args:
        model: whose weights are then changed in place.
        task: turns examples into its inputs and rows.
        examples: what it is asked; for tasks that write, with target texts.

    Raises:
        AttarError: no example has a row.
    """

    def __init__(self, model: Model, task: Task, examples: Examples) -> None:
        self.model, self.task = model, task
        self.batches = list(batches(model, task, examples, "reading the float model"))
        self.before = [self._ask(batch).detach() for batch in self.batches]
        heads = [rows.head for rows in self.before if rows.head is not None]
        if heads:  # a copy: the weights of the head can be rounded too
            own = replace(heads[0], weight=heads[0].weight.clone())
            self.before = [replace(rows, head=own) for rows in self.before]
        if not any(len(rows) for rows in self.before):
            raise AttarError(NOTHING_READ)

    def _ask(self, batch: Batch) -> Rows:
        was_training = self.model.module.training
        self.model.module.eval()
        try:
            with torch.no_grad():
                return self.task.rows(self.model, batch)
        finally:
            self.model.module.train(was_training)

    def damage(self) -> float:
        """Return the mean divergence KL(before, now) in nats a row; infinite where the model says no number."""
        total, count = 0.0, 0
        for batch, before in zip(self.batches, self.before, strict=True):
            now = self._ask(batch).detach()
            for part in now.slices(ROWS):
                p, q = (torch.log_softmax(rows.take(part).dense().float(), dim=-1) for rows in (before, now))
                total += float((p.exp() * (p - q)).double().sum())
            count += len(now)
        return total / count if math.isfinite(total) else math.inf


def sensitivities(
    judge: Judge, weights: Mapping[str, torch.nn.Parameter], choices: Sequence[Scheme]
) -> dict[str, list[float]]:
    """Return the damage of rounding each weight alone, to the nearest, at each of some bits.

    Args:
        judge: of the float model.
        weights: name -> parameter ``(out, in)``; as it was in the end.
        choices: schemes of ascending bits; the last is not tried, and counts as no damage.

    Returns:
        Name -> damage for each choice, in nats a row.
    """
    found = {}
    with progress("measuring layers", len(weights)) as bar:
        for name, parameter in weights.items():
            own, damage = parameter.data.clone(), []
            for scheme in choices[:-1]:
                parameter.data.copy_(round_to_nearest(own, scheme)[0])
                damage.append(max(judge.damage(), 0.0))
            parameter.data.copy_(own)
            found[name] = [*damage, 0.0]
            bar.advance(1, name)
    return found


def allot(damage: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]], budget: float) -> dict[str, int]:
    """Return which choice each layer gets: damage is taken away where a bit takes most of it, while the budget lasts.

    Args:
        damage: name -> damage at each choice.
        costs: name -> stored bits at each choice, ascending.
        budget: stored bits in all.

    Raises:
        AttarError: the fewest bits of all layers are more than the budget.

    Example:
        >>> allot({"a": [3.0, 0.0], "b": [1.0, 0.0]}, {"a": [4.0, 8.0], "b": [4.0, 8.0]}, 12.0)
        {'a': 1, 'b': 0}
    """
    chosen = dict.fromkeys(damage, 0)
    left = budget - sum(cost[0] for cost in costs.values())
    if left < -1e-6 * budget:
        raise AttarError(
            f"A mean of {budget:.6g} bits cannot be reached: the fewest that the choices store, scales and zero points "
            f"included, are {sum(cost[0] for cost in costs.values()):.6g}."
        )
    while True:
        steps = [
            ((damage[name][now] - damage[name][higher]) / (costs[name][higher] - costs[name][now]), name, higher)
            for name, now in chosen.items()
            for higher in range(now + 1, len(costs[name]))
            if costs[name][higher] - costs[name][now] <= left
        ]
        if not steps:
            return chosen
        _, name, higher = max(steps, key=lambda step: step[0])
        left -= costs[name][higher] - costs[name][chosen[name]]
        chosen[name] = higher


def share_out(judge: Judge, ledger: Ledger, settings: MixedBits, choices: Sequence[Scheme]) -> dict[str, Scheme]:
    """Return the scheme of each weight, under a mean of stored bits.

    Args:
        judge: of the float model.
        ledger: names the weights; those outside the stack of layers have bits of their own, and no part in the mean.
        settings: see `MixedBits`.
        choices: schemes of ascending bits.

    Raises:
        AttarError: the mean cannot be reached.
    """
    weights = {name: ledger.parameters[name] for name in ledger.schemes}
    total = sum(weight.numel() for weight in weights.values())
    costs = {n: [s.stored_bits(w.shape[1]) * w.numel() / total for s in choices] for n, w in weights.items()}
    chosen = allot(sensitivities(judge, weights, choices), costs, settings.mean)
    return {name: choices[place] for name, place in chosen.items()}


def roll_back(judge: Judge, ledger: Ledger, floor: float, bits: Sequence[int]) -> list[str]:
    """Give weights more bits until the damage is within a floor, and return which were raised.

    The worst come first: those whose return to float takes away most of the damage. A raised weight is rounded to the
    nearest; it gets the next more of ``bits``, and is float after the most of them.

    Args:
        judge: of the float model.
        ledger: has the weights, rounded and as they were.
        floor: largest damage that is allowed, in nats a row.
        bits: that a weight can be raised to, ascending.

    Raises:
        AttarError: the floor does not hold even where every weight is float.
    """
    if judge.damage() <= floor:
        return []
    order, raised = _worst_first(judge, ledger), []
    while ledger.written:
        for name in [name for name in order if name in ledger.written]:
            ledger.raise_bits(name, bits)
            raised.append(f"{name} went back to {ledger.said(name)}")
            if judge.damage() <= floor:
                return raised
    raise AttarError(
        f"floor {floor:g} cannot be held: the weights are float again, and the divergence is {judge.damage():.3g} nats "
        "a row. Set a higher floor."
    )


def _worst_first(judge: Judge, ledger: Ledger) -> list[str]:
    left = {}
    with progress("measuring layers", len(ledger.written)) as bar:
        for name in ledger.written:
            with ledger.as_float(name):
                left[name] = judge.damage()
            bar.advance(1, name)
    return sorted(left, key=lambda name: left[name])
