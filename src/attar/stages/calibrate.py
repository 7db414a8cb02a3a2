"""Show steps that work on an exported graph what they may see: training inputs as served, and a judge on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from attar.core.compressing import GraphCalibration
from attar.core.examples import UNKNOWN, DataSet
from attar.exporters.bundle import Bundle

JUDGED = 300
"""Validation examples that a graph is judged on: each is run by itself, as it will be served."""

Bundled = Callable[[Path], AbstractContextManager[Bundle]]
"""Return a bundle of a graph, for the time of a block."""


def graph_calibration(bundled: Bundled, graph: Path, data: DataSet) -> GraphCalibration:
    """Return what steps may look at; nothing is read before a step asks for it.

    Args:
        bundled: makes a bundle of a graph.
        graph: the float graph, which must stay as long as a step works.
        data: feeds are made of its training split; the judge reads the validation split, and its labels where the
            recipe allows them: then quality is the accuracy, else the share of answers that stay as the float graph's.
    """
    return GraphCalibration(Feeds(bundled, graph, data.train.inputs), _judge(bundled, graph, data))


class Feeds(Sequence[Mapping[str, np.ndarray]]):
    """Encode inputs as a bundle does, when they are asked for.

    Args:
        bundled: makes a bundle of a graph.
        graph: a graph.
        inputs: texts, or uint8 images ``(examples, channels, height, width)``.
    """

    def __init__(self, bundled: Bundled, graph: Path, inputs: Sequence[Any] | np.ndarray) -> None:
        self._bundled, self._graph, self._inputs = bundled, graph, inputs

    def __len__(self) -> int:
        return len(self._inputs)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, np.ndarray]: ...

    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, np.ndarray]]: ...

    def __getitem__(self, place: int | slice) -> Mapping[str, np.ndarray] | list[Mapping[str, np.ndarray]]:
        if isinstance(place, slice):
            return [self._bundle.feed(one) for one in self._inputs[place]]
        return self._bundle.feed(self._inputs[place])

    @cached_property
    def _bundle(self) -> Bundle:
        with self._bundled(self._graph) as bundle:
            return bundle


def _judge(bundled: Bundled, graph: Path, data: DataSet) -> Callable[[Path], float] | None:
    examples = data.split("validation").take(np.arange(min(JUDGED, len(data.validation))))
    if not len(examples):
        return None
    wanted: list[np.ndarray] = [examples.labels] if (examples.labels != UNKNOWN).all() else []

    def judge(path: Path) -> float:
        if not wanted:
            wanted.append(_best(bundled, graph, examples.inputs))
        return float((_best(bundled, path, examples.inputs) == wanted[0]).mean())

    return judge


def _best(bundled: Bundled, graph: Path, inputs: Sequence[Any] | np.ndarray) -> np.ndarray:
    with bundled(graph) as bundle:
        return np.asarray(bundle.scores(inputs).argmax(1))
