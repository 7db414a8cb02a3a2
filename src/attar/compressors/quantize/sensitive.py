"""Leave in float the layers that quantization hurts most, and no more of them than a floor of quality asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.compressors.quantize.graph import Layer
from attar.core.compressing import GraphCalibration
from attar.errors import AttarError
from attar.log import progress

LOOKS = 16
"""Examples that a single layer's damage is measured on."""

Feed = Mapping[str, np.ndarray]

Build = Callable[[frozenset[str]], Path]
"""Write the graph in which some operators stay in float, and return its file."""


@dataclass(frozen=True)
class Found:
    """Say what a search for sensitive layers found.

    Args:
        keep: operators that stay in float.
        notes: sentences for the report.
    """

    keep: frozenset[str]
    notes: tuple[str, ...]


def hold(layers: Sequence[Layer], build: Build, judged: Judged, floor: float) -> Found:
    """Find few layers that must stay in float for the loss of quality to hold a floor.

    Every kind of layer (all down projections, for example) is quantized alone once, and kinds go back to float in the
    order of their damage until the floor holds. Then the single layers of those kinds are ranked likewise, and the
    shortest row of the worst that holds the floor is found by halving.

    Args:
        layers: all that can be quantized.
        build: writes a graph.
        judged: how graphs are compared.
        floor: largest loss of quality.

    Raises:
        AttarError: the floor does not hold with a single layer quantized.
    """
    every = frozenset(layer.node for layer in layers)
    lost = judged.lost(build(frozenset()))
    if lost <= floor:
        return Found(frozenset(), (f"{lost:.4f} lost with every layer in int8: none had to stay in float32",))
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, []).append(layer.node)
    kept, order = [], _ranked(kinds, every, build, judged)
    for kind in order[:-1]:
        kept += kinds[kind]
        if judged.lost(build(frozenset(kept))) <= floor:
            break
    else:
        kept = sorted(every)
    worst = _ranked({node: [node] for node in kept}, every, build, judged)
    count = _shortest(worst, lambda nodes: judged.lost(build(frozenset(nodes))) <= floor)
    if count == len(every):
        raise AttarError(
            f"keep: auto found no layer that can be quantized within floor {floor:g}. Raise it, or leave the step out."
        )
    keep = frozenset(worst[:count])
    after = judged.lost(build(keep))
    note = f"{lost:.4f} lost with every layer in int8, {after:.4f} with {count} of {len(layers)} in float32: "
    return Found(keep, (note + told(keep, layers),))


def told(keep: frozenset[str], layers: Sequence[Layer]) -> str:
    """Return the names of layers, those of one kind as one with their number."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.node in keep:
            names.setdefault(layer.kind, []).append(layer.name)
    parts = [own[0] if len(own) == 1 else f"{kind} ({len(own)})" for kind, own in names.items()]
    return ", ".join(parts)


def _ranked(groups: Mapping[str, Sequence[str]], every: frozenset[str], build: Build, judged: Judged) -> list[str]:
    """Return groups of operators, the one first that does the most damage when it alone is quantized."""
    damage = {}
    with progress("measuring layers", len(groups)) as bar:
        for name, nodes in groups.items():
            damage[name] = judged.damage(build(every - frozenset(nodes)))
            bar.advance(1, name)
    return sorted(groups, key=lambda name: -damage[name])


def _shortest(nodes: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> int:
    """Return how many of the first nodes suffice; all of them do."""
    low, high = 1, len(nodes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(nodes[:middle]) else (middle + 1, high)
    return high


class Judged:
    """Compare quantized graphs with the float graph that they were made from.

    Args:
        source: the float graph.
        calibration: its judge says the quality; without one, the share of its feeds whose best choice stays is it.
        step: who asks.

    Raises:
        AttarError: there is nothing to compare on.
    """

    def __init__(self, source: Path, calibration: GraphCalibration, step: str) -> None:
        feeds = calibration.feeds
        if not feeds:
            raise AttarError(f"keep: auto of {step} measures on examples, and there are none. Name the layers instead.")
        self._looks = [feeds[place] for place in np.unique(np.linspace(0, len(feeds) - 1, LOOKS).astype(int))]
        self._said = answers(source, self._looks)
        self._judge = calibration.judge or _agreement(source, feeds)
        self._best = self._judge(source)

    def lost(self, path: Path) -> float:
        """Return how much quality a graph lost."""
        return self._best - self._judge(path)

    def damage(self, path: Path) -> float:
        """Return the squared change of a graph's scores, as a share of how much they differ from each other."""
        before, after = _centered(self._said), _centered(answers(path, self._looks))
        return float(((after - before) ** 2).sum() / max(float((before**2).sum()), 1e-30))


def answers(path: Path, feeds: Sequence[Feed]) -> list[np.ndarray]:
    """Return a graph's first output for each example, in float64."""
    session = onnxruntime_session(path)
    return [np.asarray(session.run(None, dict(feed))[0], np.float64) for feed in feeds]


def onnxruntime_session(path: Path) -> Any:
    """Return a session on the CPU that says nothing but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _agreement(source: Path, feeds: Sequence[Feed]) -> Callable[[Path], float]:
    before = [said.argmax(-1) for said in answers(source, feeds)]

    def judge(path: Path) -> float:
        """Return the share of feeds on which a graph chooses what the float one does."""
        after = [said.argmax(-1) for said in answers(path, feeds)]
        return float(np.mean([bool((a == b).all()) for a, b in zip(before, after, strict=True)]))

    return judge


def _centered(said: Sequence[np.ndarray]) -> np.ndarray:
    """Return all scores in one row, less their mean over the choices, which changes no answer."""
    return np.concatenate([(scores - scores.mean(-1, keepdims=True)).reshape(-1) for scores in said])
