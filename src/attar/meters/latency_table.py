"""Know how long layers take on this machine: a measured table that plans read instead of FLOPs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from attar.errors import AttarError
from attar.log import progress
from attar.meters.latency_graphs import HEAD, Kind, Precision, attention, between, convolution, linear
from attar.meters.machine import processor
from attar.settings import cache_folder
from attar.store.files import read_json, write_json

SCHEMA = 1
INPUTS, OUTPUTS, TOKENS = (64, 384, 1536), (64, 384, 1536, 8192), (1, 16, 128)
WIDTHS, HEADS, SOURCES = (64, 384, 1536), (2, 8, 32), (1, 16, 128, 512)
CHANNELS, SIZES = (16, 64, 256), (7, 28)
AXES: dict[str, tuple[tuple[int, ...], ...]] = {
    **{f"linear.{name}": (INPUTS, OUTPUTS, TOKENS) for name in get_args(Precision)},
    **{f"{kind}.{name}": (CHANNELS, SIZES) for kind in get_args(Kind) for name in ("float32", "int8")},
    "attention": (HEADS, SOURCES),
    "between": (WIDTHS, TOKENS),
}
"""Name of a table -> its axes: inputs, outputs, tokens; channels, height of an image; heads, tokens; width, tokens."""
WARMUP, LEAST, MOST, SECONDS = 2, 5, 40, 0.05
"""Calls before the first that counts; calls of a point at least and at most; seconds after which no more are made."""

Point = tuple[str, tuple[int, ...], float]
"""A table's name, a place in it, milliseconds."""


@dataclass(frozen=True)
class Blocks:
    """Describe the blocks of a transformer, for what they do besides their linear layers.

    Args:
        count: how many.
        width: of what goes from one to the next.
        heads: of attention, in each.
    """

    count: int
    width: int
    heads: int


@dataclass(frozen=True)
class Convolution:
    """Describe a convolution.

    Args:
        inputs: channels that it reads.
        outputs: channels that it gives.
        kernel: height of its kernel.
        size: height of what it gives; the width is taken to be the same.
        groups: as in `torch.nn.Conv2d`.
    """

    inputs: int
    outputs: int
    kernel: int
    size: int
    groups: int = 1


class LatencyTable:
    """Predict how long layers take, between the measured points linearly in logarithms.

    Beyond the points the last slope goes on. What is predicted is the time of layers whose weights lie in the caches
    as they do in a small model, one call at a time.

    Args:
        tables: name -> milliseconds, shaped as `AXES` says.

    Raises:
        ValueError: a table is missing, has another shape, or holds what is no time.
    """

    def __init__(self, tables: Mapping[str, Any]) -> None:
        from scipy.interpolate import RegularGridInterpolator

        self.tables = {name: np.asarray(tables[name], np.float64) for name in AXES if name in tables}
        self._read: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        for name, axes in AXES.items():
            values = self.tables.get(name, np.zeros(0))
            if values.shape != tuple(len(axis) for axis in axes) or not (np.isfinite(values) & (values > 0)).all():
                raise ValueError(f"table {name} must hold a positive time for each of its points")
            self._read[name] = RegularGridInterpolator(
                tuple(np.log(axis) for axis in axes), np.log(values), bounds_error=False, fill_value=None
            )

    def predict(
        self, shapes: Sequence[tuple[int, int]], tokens: int, precision: Precision, blocks: Blocks | None = None
    ) -> float:
        """Return the milliseconds of linear layers, and of what stands between them in a transformer.

        What a graph does once, such as looking up tokens, is not in it. For a change of a model that was measured,
        multiply what the model took by the ratio of what is predicted after and before: what is not in it mostly
        cancels.

        Args:
            shapes: inputs and outputs of each layer.
            tokens: that each reads in one call.
            precision: they run in.
            blocks: whose attention, norms and activations are added; None adds none.

        Raises:
            AttarError: the precision is none that was measured.
        """
        if f"linear.{precision}" not in AXES:
            known = ", ".join(get_args(Precision))
            raise AttarError(f"precision must be one of {known}, got {precision!r}.")
        layers = self._times(f"linear.{precision}", [(*shape, tokens) for shape in shapes])
        if blocks is None:
            return layers
        parts = [("attention", (blocks.heads, tokens)), ("between", (blocks.width, tokens))]
        return layers + blocks.count * sum(self._times(name, [place]) for name, place in parts)

    def predict_convolutions(self, layers: Sequence[Convolution], precision: str) -> float:
        """Return the milliseconds of convolutions on one image, in ``float32`` or static ``int8``.

        A kernel of another size than 1 and 3 is taken as one of 3 with as many more multiply-adds.

        Raises:
            AttarError: the precision is none that was measured.
        """
        if precision not in ("float32", "int8"):
            raise AttarError(f"precision of convolutions must be float32 or int8, got {precision!r}.")
        return sum(_convolution(one, precision, self._times) for one in layers)

    def _times(self, name: str, places: Sequence[tuple[int, ...]]) -> float:
        """Return the sum of the milliseconds at places of a table."""
        if not places:
            return 0.0
        return float(np.exp(self._read[name](np.log(np.asarray(places, np.float64)))).sum())


def _convolution(one: Convolution, precision: str, times: Callable[[str, Any], float]) -> float:
    channels = math.sqrt(one.inputs * one.outputs)
    if one.groups == 1:
        kind, more = ("1x1", 1.0) if one.kernel == 1 else ("3x3", one.kernel**2 / 9)
    elif one.groups == one.inputs:
        kind, more = "depthwise", one.kernel**2 / 9
    else:
        kind, more = "3x3", one.kernel**2 / 9 / one.groups
    return more * times(f"{kind}.{precision}", [(channels, one.size)])


def linear_shapes(module: Any) -> list[tuple[int, int]]:
    """Return inputs and outputs of a PyTorch module's linear layers, in order.

    Example:
        >>> import torch
        >>> linear_shapes(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 4)))
        [(2, 3), (3, 4)]
    """
    import torch

    return [(one.in_features, one.out_features) for one in module.modules() if isinstance(one, torch.nn.Linear)]


def machine_table(threads: int, folder: Path | None = None) -> LatencyTable:
    """Return this machine's table, from the cache; it is measured where it is not there, or not whole.

    Args:
        threads: of the runtime.
        folder: where tables are kept; in the cache folder by default.
    """
    import onnxruntime

    key = {"processor": processor(), "onnxruntime": onnxruntime.__version__, "threads": threads}
    name = re.sub(r"[^a-z0-9.]+", "-", "-".join(str(part) for part in key.values()).lower())
    path = (cache_folder() / "latency" if folder is None else folder) / f"{name}.json"
    kept = _read(path, key)
    if kept is not None:
        return kept
    begin = time.perf_counter()
    tables = {name: np.zeros([len(axis) for axis in axes]) for name, axes in AXES.items()}
    with progress("measuring how fast this machine is", sum(table.size for table in tables.values())) as bar:
        for name, place, milliseconds in measured(threads):
            tables[name][place] = milliseconds
            bar.advance(1, name)
    body = {name: table.tolist() for name, table in tables.items()}
    write_json(path, {"schema": SCHEMA, **key, "axes": _axes(), "tables": body, "seconds": time.perf_counter() - begin})
    return LatencyTable(tables)


def _axes() -> dict[str, list[list[int]]]:
    return {name: [list(axis) for axis in axes] for name, axes in AXES.items()}


def _read(path: Path, key: Mapping[str, Any]) -> LatencyTable | None:
    """Return a kept table; None where there is none, or one of another version, machine or grid, or a damaged one."""
    if not path.is_file():
        return None
    try:
        body = read_json(path)
        wanted = {"schema": SCHEMA, **key, "axes": _axes()}
        return LatencyTable(body["tables"]) if wanted.items() <= body.items() else None
    except (AttarError, AttributeError, KeyError, TypeError, ValueError):
        return None


def measured(threads: int) -> Iterator[Point]:
    """Yield the time of every point of every table."""
    for precision in get_args(Precision):
        for i, inputs in enumerate(INPUTS):
            for o, outputs in enumerate(OUTPUTS):
                times = _timed(linear(inputs, outputs, precision), [(tokens, inputs) for tokens in TOKENS], threads)
                yield from ((f"linear.{precision}", (i, o, t), one) for t, one in enumerate(times))
    for h, heads in enumerate(HEADS):
        times = _timed(attention(heads), [(tokens, HEAD * heads) for tokens in SOURCES], threads)
        yield from (("attention", (h, t), one) for t, one in enumerate(times))
    for i, width in enumerate(WIDTHS):
        times = _timed(between(width), [(tokens, width) for tokens in TOKENS], threads)
        yield from (("between", (i, t), one) for t, one in enumerate(times))
    for kind in get_args(Kind):
        for precision in ("float32", "int8"):
            for c, channels in enumerate(CHANNELS):
                for s, size in enumerate(SIZES):
                    graph = convolution(channels, size, kind, precision == "int8")
                    (one,) = _timed(graph, [(1, channels, size, size)], threads)
                    yield f"{kind}.{precision}", (c, s), one


def _timed(graph: tuple[bytes, int], shapes: Sequence[tuple[int, ...]], threads: int) -> list[float]:
    """Return the median milliseconds of one of a graph's layers, for inputs of each shape."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content, copies = graph
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [_median(session, np.full(shape, 0.5, np.float32)) / copies for shape in shapes]


def _median(session: Any, inputs: np.ndarray) -> float:
    for _ in range(WARMUP):
        session.run(None, {"x": inputs})
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < SECONDS):
        begin = time.perf_counter()
        session.run(None, {"x": inputs})
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times))
