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
from attar.log import progress
from attar.seeds import derive
from attar.stages.device import threads

REST = 0.02
"""Seconds between two calls: a runtime's threads spin on for a while and would slow the next contender."""


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
    contenders: Sequence[Contender], task: str, test: Examples, texts: int, warmup: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Time every contender on the same test examples, one at a time, and read the scores of bundles.

    Args:
        contenders: the models.
        task: the recipe's task.
        test: the test split.
        texts: how many of its examples are timed.
        warmup: calls of each contender before the first that counts.
        seed: of the choice of examples.

    Returns:
        Name -> latency, peak memory, precision, runtime, and ``scores`` for bundles.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "latency")))
    chosen = random.permutation(len(test))[: min(texts, len(test))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = _write_inputs(test, folder)
        with _workers(contenders, task, inputs, folder) as workers:
            times, lengths = _interleave(workers, chosen, warmup)
            return {
                contender.name: {
                    **_facts(workers[contender.name]),
                    "latency_ms": _latency(times[contender.name], lengths[contender.name]),
                    "scores": _scores(workers[contender.name], folder) if contender.kind == "bundle" else None,
                    "peak_rss_bytes": workers[contender.name].ask(do="memory")["peak_rss_bytes"],
                }
                for contender in contenders
            }


def _facts(worker: Worker) -> dict[str, Any]:
    return {name: worker.ready[name] for name in ("precision", "runtime", "load_seconds")}


def _write_inputs(test: Examples, folder: Path) -> Path:
    if isinstance(test.inputs, np.ndarray):
        np.save(folder / "inputs.npy", test.inputs)
        return folder / "inputs.npy"
    path = folder / "inputs.json"
    path.write_text(json.dumps(list(test.inputs)), encoding="utf-8")
    return path


def _interleave(
    workers: Mapping[str, Worker], chosen: np.ndarray, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    times: dict[str, list[float]] = {name: [] for name in workers}
    lengths: dict[str, list[int]] = {name: [] for name in workers}
    for worker in workers.values():
        for place in chosen[:warmup]:
            worker.ask(do="time", place=int(place))
    with progress("measuring latency", len(chosen) * len(workers)) as bar:
        for place in chosen:
            for name, worker in workers.items():
                time.sleep(REST)
                answer = worker.ask(do="time", place=int(place))
                times[name].append(answer["ms"])
                lengths[name].append(answer["length"])
                bar.advance(1, name)
    return times, lengths


def _latency(times: Sequence[float], lengths: Sequence[int]) -> dict[str, Any]:
    p10, p50, p90 = (float(x) for x in np.percentile(times, [10, 50, 90]))
    return {
        "p10": round(p10, 3),
        "p50": round(p50, 3),
        "p90": round(p90, 3),
        "batch": 1,
        "threads": threads(),
        "length": int(np.median(lengths)),
        "n": len(times),
        "device": "cpu",
    }


def _scores(worker: Worker, folder: Path) -> np.ndarray:
    path = folder / "scores.npy"
    worker.ask(do="scores", to=str(path))
    return np.asarray(np.load(path, allow_pickle=False))
