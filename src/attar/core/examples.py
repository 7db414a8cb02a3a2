"""Hold examples with their content keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNKNOWN = -1  # the label of an example whose gold label is not known or may not be used


@dataclass(frozen=True)
class Examples:
    """Hold examples in an order; whatever is recorded about them refers to ``keys``, never to places.

    Args:
        keys: ``(examples,)`` int64, the content key of each (`attar.seeds.content_key`); unique.
        inputs: texts, or images as uint8 ``(examples, channels, height, width)``.
        labels: ``(examples,)`` int64, an index into the data set's labels, or `UNKNOWN`.

    Example:
        >>> some = Examples(np.array([7, 8]), ["good", "bad"], np.array([1, 0]))
        >>> some.take(np.array([1])).inputs
        ['bad']
    """

    keys: np.ndarray
    inputs: Sequence[str] | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: np.ndarray) -> Examples:
        """Return the examples at these places, in this order."""
        if isinstance(self.inputs, np.ndarray):
            inputs: Sequence[str] | np.ndarray = self.inputs[places]
        else:
            inputs = [self.inputs[int(i)] for i in places]
        return Examples(self.keys[places], inputs, self.labels[places])

    def without_labels(self) -> Examples:
        """Return the same examples with every label unknown."""
        return Examples(self.keys, self.inputs, np.full_like(self.labels, UNKNOWN))


@dataclass(frozen=True)
class DataSet:
    """Hold the disjoint splits of a task's data.

    Args:
        labels: the names of the classes; an example's label is a place in it.
        train: what students learn from, and what a teacher labels.
        validation: what choices are made on.
        test: what is reported; nothing is ever chosen on it.
        gold: the splits whose gold labels may be used.
        facts: what reading and splitting found (rows read, dropped, duplicates, counts of labels).
        spare: examples in no split, without labels: text that shows what the task's words are; None if there are none.
    """

    labels: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    gold: frozenset[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    spare: Examples | None = None

    def split(self, name: str) -> Examples:
        """Return the split ``train``, ``validation`` or ``test``, its labels hidden where the recipe forbids them."""
        examples: Examples = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        return examples if name in self.gold else examples.without_labels()
