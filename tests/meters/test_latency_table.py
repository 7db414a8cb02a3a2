from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from attar.errors import AttarError
from attar.meters import latency_table
from attar.meters.latency_graphs import convolution, linear
from attar.meters.latency_table import AXES, INPUTS, OUTPUTS, TOKENS, Blocks, Convolution, LatencyTable, linear_shapes


def _milliseconds(name: str, place: tuple[int, ...]) -> float:
    """Return a made-up time: a fixed part and one that grows with the operations."""
    kind = (1 + list(AXES).index(name)) * 1e-6
    return 0.001 + kind * math.prod(axis[i] for axis, i in zip(AXES[name], place, strict=True))


def _points() -> Iterator[latency_table.Point]:
    for name, axes in AXES.items():
        for place in product(*(range(len(axis)) for axis in axes)):
            yield name, place, _milliseconds(name, place)


@pytest.fixture
def table() -> LatencyTable:
    tables = {name: np.zeros([len(axis) for axis in axes]) for name, axes in AXES.items()}
    for name, place, value in _points():
        tables[name][place] = value
    return LatencyTable(tables)


@pytest.mark.parametrize("precision", ["float32", "int8", "nbits4", "nbits8"])
def test_measured_points_are_given_back_exactly(table: LatencyTable, precision: str) -> None:
    for i, o, t in product(range(len(INPUTS)), range(len(OUTPUTS)), range(len(TOKENS))):
        said = table.predict([(INPUTS[i], OUTPUTS[o])], TOKENS[t], precision)  # type: ignore[arg-type]
        assert said == pytest.approx(_milliseconds(f"linear.{precision}", (i, o, t)), rel=1e-9)


def test_between_and_beyond_the_points_slopes_go_on_in_logarithms(table: LatencyTable) -> None:
    first, second = (table.predict([(64, out)], 16, "int8") for out in (384, 1536))
    assert table.predict([(64, 768)], 16, "int8") == pytest.approx(math.sqrt(first * second))
    slope = math.log(second / first) / math.log(4)
    last = table.predict([(64, 8192)], 16, "int8")
    beyond = table.predict([(64, 16384)], 16, "int8")
    assert 1 < beyond / last < 2 + 1e-9
    assert slope < 1


def test_layers_and_blocks_add_up(table: LatencyTable) -> None:
    one, two = table.predict([(64, 64)], 1, "float32"), table.predict([(384, 64)], 1, "float32")
    rest = _milliseconds("between", (1, 0)) + _milliseconds("attention", (0, 0))
    both = table.predict([(64, 64), (384, 64)], 1, "float32", Blocks(3, width=384, heads=2))
    assert both == pytest.approx(one + two + 3 * rest)
    assert table.predict([], 1, "float32") == 0


def test_convolutions_by_their_channels_kernel_and_groups(table: LatencyTable) -> None:
    at = {kind: _milliseconds(f"{kind}.int8", (1, 1)) for kind in ("1x1", "3x3", "depthwise")}
    layers = [Convolution(64, 64, 1, 28), Convolution(32, 128, 3, 28), Convolution(64, 64, 3, 28, groups=64)]
    for layer, kind in zip(layers, at, strict=True):
        assert table.predict_convolutions([layer], "int8") == pytest.approx(at[kind])
    assert table.predict_convolutions(layers, "int8") == pytest.approx(sum(at.values()))
    wide = table.predict_convolutions([Convolution(64, 64, 6, 28)], "int8")
    assert wide == pytest.approx(4 * at["3x3"])
    grouped = table.predict_convolutions([Convolution(64, 64, 3, 28, groups=2)], "int8")
    assert grouped == pytest.approx(at["3x3"] / 2)


def test_an_unknown_precision_is_a_mistake(table: LatencyTable) -> None:
    with pytest.raises(AttarError, match="nbits4"):
        table.predict([(64, 64)], 1, "int3")  # type: ignore[arg-type]
    with pytest.raises(AttarError, match="float32 or int8"):
        table.predict_convolutions([], "nbits4")


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_table_of_what_is_no_time_is_refused(table: LatencyTable, wrong: float) -> None:
    broken = {**table.tables, "between": table.tables["between"].copy()}
    broken["between"][0, 0] = wrong
    with pytest.raises(ValueError, match="between"):
        LatencyTable(broken)
    with pytest.raises(ValueError, match=r"linear\.float32"):
        LatencyTable({"between": table.tables["between"]})


def _damage(path: Path, how: str) -> None:
    body = json.loads(path.read_text())
    if how == "cut":
        path.write_text(path.read_text()[:200])
    elif how == "other":
        path.write_text("[1, 2]")
    elif how == "processor":
        path.write_text(json.dumps(body | {"processor": "another"}))
    elif how == "axes":
        path.write_text(json.dumps(body | {"axes": {**body["axes"], "between": [[1], [2]]}}))
    elif how == "shape":
        path.write_text(json.dumps(body | {"tables": {**body["tables"], "between": [[1.0]]}}))
    else:
        body["tables"]["between"][0][0] = "NaN"
        path.write_text(json.dumps(body))


@pytest.mark.parametrize("how", ["cut", "other", "processor", "axes", "shape", "number"])
def test_a_table_is_measured_once_and_again_where_the_file_is_not_whole(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measured(threads: int) -> Iterator[latency_table.Point]:
        calls.append(threads)
        yield from _points()

    monkeypatch.setattr(latency_table, "measured", measured)
    first = latency_table.machine_table(2, tmp_path)
    (path,) = tmp_path.iterdir()
    again = latency_table.machine_table(2, tmp_path)
    assert calls == [2]
    assert again.predict([(100, 200)], 5, "int8") == first.predict([(100, 200)], 5, "int8")
    _damage(path, how)
    rebuilt = latency_table.machine_table(2, tmp_path)
    assert calls == [2, 2]
    assert rebuilt.predict([(100, 200)], 5, "int8") == first.predict([(100, 200)], 5, "int8")
    latency_table.machine_table(1, tmp_path)
    assert calls == [2, 2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_measurement_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(threads: int) -> Iterator[latency_table.Point]:
        yield next(_points())
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_table, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        latency_table.machine_table(1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_layers_are_really_timed() -> None:
    assert all(one > 0 for one in latency_table._timed(linear(64, 64, "int8"), [(1, 64), (4, 64)], 1))
    assert latency_table._timed(convolution(16, 4, "3x3", True), [(1, 16, 4, 4)], 1)[0] > 0


def test_shapes_of_a_network_in_order() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(5, 2)))
    assert linear_shapes(net) == [(3, 5), (5, 2)]
