"""Hold examples with their content keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attar.core.prompt import TextPrompt

UNKNOWN = -1  # the label of an example whose gold label is not known or may not be used


@dataclass(frozen=True)
class Examples:
    """Hold examples in an order; whatever is recorded about them refers to ``keys``, never to places.

    Args:
        keys: ``(examples,)`` int64, the content key of each (`attar.seeds.content_key`); unique.
        inputs: texts, or images as uint8 ``(examples, channels, height, width)``.
        labels: ``(examples,)`` int64, an index into the data set's labels, or `UNKNOWN`.
        targets: the text that each example asks for, "" where it is not known; None for tasks with labels, or
            where no target is known or may be used.
        own: ``(examples,)`` bool, True where the target is what the learning model wrote itself: it is read and
            judged, and never taught as right; None where none is.
        prompts: the prompt that a model which has one reads each example under in place of its own, None for its own;
            None where all are read under its own.

    Raises:
        ValueError: ``targets``, marks in ``own``, or ``prompts`` are not one an example.

    Example:
        >>> some = Examples(np.array([7, 8]), ["good", "bad"], np.array([1, 0]))
        >>> some.take(np.array([1])).inputs
        ['bad']
    """

    keys: np.ndarray
    inputs: Sequence[str] | np.ndarray
    labels: np.ndarray
    targets: Sequence[str] | None = None
    own: np.ndarray | None = None
    prompts: Sequence[TextPrompt | None] | None = None

    def __post_init__(self) -> None:
        if self.targets is not None and len(self.targets) != len(self.keys):
            raise ValueError(f"Examples take one target each: {len(self.keys)} examples, {len(self.targets)} targets")
        if self.own is not None and len(self.own) != len(self.keys):
            raise ValueError(f"Examples take one mark each: {len(self.keys)} examples, {len(self.own)} marks")
        if self.prompts is not None and len(self.prompts) != len(self.keys):
            raise ValueError(f"Examples take one prompt each: {len(self.keys)} examples, {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: np.ndarray) -> Examples:
        """Return the examples at these places, in this order."""
        if isinstance(self.inputs, np.ndarray):
            inputs: Sequence[str] | np.ndarray = self.inputs[places]
        else:
            inputs = [self.inputs[int(i)] for i in places]
        targets = None if self.targets is None else [self.targets[int(i)] for i in places]
        own = None if self.own is None else self.own[places]
        prompts = None if self.prompts is None else [self.prompts[int(i)] for i in places]
        return Examples(self.keys[places], inputs, self.labels[places], targets, own, prompts)

    def without_labels(self) -> Examples:
        """Return the same examples with every label unknown and without targets."""
        return Examples(self.keys, self.inputs, np.full_like(self.labels, UNKNOWN))

    def with_targets(self, targets: Sequence[str], keys: np.ndarray | None = None) -> Examples:
        """Return the same inputs with other target texts, for example those that a teacher wrote; none is an own one.

        Args:
            targets: one text an example, in order.
            keys: ``(examples,)`` int64, new keys, for a text that stands here with several targets; None keeps
                the keys.

        Raises:
            ValueError: there is not one target, or not one key, an example.

        Example:
            >>> some = Examples(np.array([7]), ["Red socks. Warm."], np.array([UNKNOWN]))
            >>> some.with_targets(["Warm socks"]).targets
            ['Warm socks']
        """
        if keys is not None and len(keys) != len(self):
            raise ValueError(f"Examples take one key each: {len(self)} examples, {len(keys)} keys")
        return Examples(self.keys if keys is None else keys, self.inputs, self.labels, list(targets))


@dataclass(frozen=True)
class DataSet:
    """Hold the disjoint splits of a task's data.

    Args:
        labels: the names of the classes; an example's label is a place in it. Empty where examples have targets.
        train: what students learn from, and what a teacher labels.
        validation: what choices are made on.
        test: what is reported; nothing is ever chosen on it.
        gold: the splits whose gold labels, or gold targets, may be used.
        facts: what reading and splitting found (rows read, dropped, duplicates, counts of labels).
        spare: examples in no split, without labels or targets: text that shows what the task's words are; None if
            there are none.
    """

    labels: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    gold: frozenset[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    spare: Examples | None = None

    def split(self, name: str) -> Examples:
        """Return the split ``train``, ``validation`` or ``test``, its gold hidden where the recipe forbids it."""
        examples: Examples = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        return examples if name in self.gold else examples.without_labels()
