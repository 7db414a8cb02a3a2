"""Measure all models of a run alike: fresh processes, the same test examples, contenders interleaved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.examples import Examples
from attar.errors import AttarError
from attar.log import Meter, progress
from attar.meters import compare
from attar.meters.grid import GridSettings
from attar.seeds import derive
from attar.stages.device import threads

REST = 0.02
"""Seconds between two calls: a runtime's threads spin on for a while and would slow the next contender."""

REFERENCES = ("teacher", "student")
"""Contenders that every other one's speed is compared with."""


@dataclass(frozen=True)
class Contender:
    """Name a model to be timed.

    Args:
        name: its name in the summary.
        kind: a key of `attar.stages.worker.RUNNERS`.
        folder: its files.
        facts: what its runner needs besides.
    """

    name: str
    kind: str
    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Talk with a model in a process of its own.

    Args:
        spec: path of its specification, a JSON file.

    Raises:
        AttarError: the process ended, or said an error.
    """

    def __init__(self, spec: Path) -> None:
        command = [sys.executable, "-m", "attar.stages.worker", str(spec)]
        # between two rests, threads that spin at a barrier can land on one core and stall each other for a whole time
        # slice (11 ms where the work takes 1); waiting in sleep takes that from every torch model alike
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ready = self._read()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        if self._process.stdin is None:
            raise ValueError("the worker has no input")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise AttarError(
                f"The process that measures a model ended with status {self._process.wait()}. Its words are above; if "
                "it was killed, memory may be short."
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AttarError(str(answer["error"]))
        return answer


@contextmanager
def _workers(contenders: Sequence[Contender], task: str, inputs: Path, folder: Path) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        found = {}
        for contender in contenders:
            spec = folder / f"{contender.name}.json"
            body = {"kind": contender.kind, "folder": str(contender.folder), "task": task, "inputs": str(inputs)}
            spec.write_text(json.dumps({**body, "threads": threads(), **contender.facts}), encoding="utf-8")
            found[contender.name] = Worker(spec)
            stack.callback(found[contender.name].close)
        yield found


def measure_files(
    contenders: Sequence[Contender],
    task: str,
    test: Examples,
    texts: int,
    warmup: int,
    seed: int,
    grid: GridSettings | None = None,
) -> dict[str, dict[str, Any]]:
    """Time every contender on the same test examples, one at a time, and read the scores of bundles.

    Args:
        contenders: the models.
        task: the recipe's task.
        test: the test split.
        texts: how many of its examples are timed.
        warmup: calls of each contender before the first that counts.
        seed: of the choice of examples.
        grid: batches and lengths that are timed besides; None times none.

    Returns:
        Name -> ``load_seconds``, ``loaded_rss_bytes``, ``peak_rss_bytes`` (of single examples), ``precision``,
        ``runtime``, ``latency_ms``, ``against`` (what may be claimed of its speed against teacher and student),
        ``grid``; of a bundle ``scores`` and what its graph is executed as; of a model that writes ``prefill_ms`` and
        ``token_ms``.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "latency")))
    chosen = random.permutation(len(test))[: min(texts, len(test))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = _write_inputs(test, folder)
        with _workers(contenders, task, inputs, folder) as workers:
            rounds = _interleave(workers, chosen, warmup)
            found = {
                one.name: {
                    **_facts(workers[one.name]),
                    **_figures(one.name, rounds),
                    "scores": _scores(workers[one.name], folder) if one.kind == "bundle" else None,
                    "peak_rss_bytes": workers[one.name].ask(do="memory")["peak_rss_bytes"],
                }
                for one in contenders
            }
            points = _grid(workers, test, grid, int(chosen[0]))
            for name, worker in workers.items():  # last: watching a graph loads it twice more
                found[name] |= {"grid": points[name], **worker.ask(do="executed", place=int(chosen[0]))}
            return found


def _facts(worker: Worker) -> dict[str, Any]:
    return {name: worker.ready[name] for name in ("precision", "runtime", "load_seconds", "loaded_rss_bytes")}


def _write_inputs(test: Examples, folder: Path) -> Path:
    if isinstance(test.inputs, np.ndarray):
        np.save(folder / "inputs.npy", test.inputs)
        return folder / "inputs.npy"
    path = folder / "inputs.json"
    path.write_text(json.dumps(list(test.inputs)), encoding="utf-8")
    return path


Rounds = dict[str, list[dict[str, Any]]]
"""Name -> the worker's answer in each round; all contenders ran in each."""


def _interleave(workers: Mapping[str, Worker], chosen: np.ndarray, warmup: int) -> Rounds:
    for worker in workers.values():
        for place in chosen[:warmup]:
            worker.ask(do="time", place=int(place))
    with progress("measuring latency", len(chosen) * len(workers)) as bar:
        return _take_turns(workers, [{"do": "time", "place": int(place)} for place in chosen], bar)


def _take_turns(workers: Mapping[str, Worker], requests: Sequence[Mapping[str, Any]], bar: Meter) -> Rounds:
    rounds: Rounds = {name: [] for name in workers}
    for request in requests:
        for name, worker in workers.items():
            time.sleep(REST)
            rounds[name].append(worker.ask(**request))
            bar.advance(1, name)
    return rounds


def _figures(name: str, rounds: Rounds) -> dict[str, Any]:
    """Return the latency of a contender, its parts, and what may be claimed of it."""
    own = rounds[name]
    conditions = {"batch": 1, "threads": threads(), "length": int(np.median([one["length"] for one in own]))}
    latency = {**_percentiles(own, "ms", (10, 50, 90)), **conditions, "n": len(own), "device": "cpu"}
    return {"latency_ms": latency, **_parts(own), "against": _against(name, rounds)}


def _percentiles(answers: Sequence[Mapping[str, Any]], what: str, which: Sequence[int]) -> dict[str, float]:
    values = np.percentile([one[what] for one in answers], which)
    return {f"p{percent}": round(float(value), 3) for percent, value in zip(which, values, strict=True)}


def _parts(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return prefill and decode apart, where the model writes."""
    if "prefill_ms" not in answers[0]:
        return {}
    return {what: _percentiles(answers, what, (50, 90)) for what in ("prefill_ms", "token_ms")}


def _against(name: str, rounds: Rounds) -> dict[str, Any]:
    """Return what may be claimed of a contender's speed: other -> `attar.meters.compare.Claim`."""
    times = {one: [answer["ms"] for answer in answers] for one, answers in rounds.items()}
    others = [one for one in REFERENCES if one in times and one != name]
    return {other: compare.claim(times[name], times[other]).to_json() for other in others}


def _grid(
    workers: Mapping[str, Worker], test: Examples, grid: GridSettings | None, place: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the grid's points of each contender: what it cannot read at once is left out."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    points = [] if grid is None else list(grid.points(texts=not isinstance(test.inputs, np.ndarray)))
    total = 0 if grid is None else len(points) * len(workers) * grid.rounds
    with progress("measuring batches and lengths", total) as bar:
        for batch, length in points:
            request = {"do": "grid", "batch": batch, "length": length, "place": place}
            able = {name: worker for name, worker in workers.items() if worker.ask(**request)["ms"] is not None}
            rounds = _take_turns(able, [request] * (grid.rounds if grid else 0), bar)
            for name, answers in rounds.items():
                at = {"batch": batch, "length": length, **_percentiles(answers, "ms", (50, 90)), "n": len(answers)}
                found[name].append({**at, **_parts(answers), "against": _against(name, rounds)})
    return found


def _scores(worker: Worker, folder: Path) -> np.ndarray:
    path = folder / "scores.npy"
    worker.ask(do="scores", to=str(path))
    return np.asarray(np.load(path, allow_pickle=False))
