"""Label with a server that fails in ten ways, kill the labeling process, and count what is lost or paid twice.

A real HTTP server on this machine fails on purpose: 429, 500, no answer in time, a cut stream, wrong JSON, no
log-probabilities, an answer that comes late and then again, a slow answer, another model, an expired key. After the
first eight every label must come, and be right; after the last two the user must be told at once. Then a process that
labels is killed with SIGKILL at random instants and started again, and hard caps are tried with calls on their way.

    python benchmarks/endpoint.py                        200 texts a fault, 12 kills; about a minute on two cores
    python benchmarks/endpoint.py --texts 40 --kills 2   fewer; writes no result
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, write_result

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.teachers.endpoint import EndpointTeacher

sys.path.insert(0, str(ROOT / "tests" / "teachers"))
from fake_endpoint import FATAL, MENDED, MODEL, WORDS, FakeEndpoint, serving, share

PROMPT = TextPrompt("Review: {text}\nSentiment:", WORDS)
CONCURRENCY = 8
TIMEOUT = 0.5  # seconds; answers that come late take a fifth longer
MESSAGES = {"wrong_model": "answered as 'another-model'", "expired_key": "answered 401"}
CAP_FAULTS = ("", "429", "cut", "wrong_json", "no_logprobs", "duplicate", "slow")
LATENCY = 0.02  # seconds an answer takes while the labeling is killed
LONGEST = 0.5  # seconds between a try's first call and its kill


def some(count: int) -> Examples:
    """Return texts to label."""
    texts = [f"text number {i}" for i in range(count)]
    return Examples(np.arange(count), texts, np.full(count, UNKNOWN))


def make(server: FakeEndpoint, folder: Path, **changes: Any) -> EndpointTeacher:
    """Return a teacher that asks a server, with its ledger in a folder."""
    plain = {"backoff": 0.01, "timeout": TIMEOUT, "concurrency": CONCURRENCY}
    settings = EndpointTeacher.Settings(**{"base_url": server.url, "model": MODEL, **plain, **changes})
    return EndpointTeacher(settings, PROMPT, folder / "ledger.jsonl")


def lost(teacher: EndpointTeacher, examples: Examples) -> int:
    """Return how many labels are missing or wrong."""
    found = teacher.answer(examples).dense().exp()[:, 1].numpy()
    right = np.array([share(PROMPT.render(text)) for text in examples.inputs])
    return int((np.abs(found - right) > 1e-5).sum())


@dataclass
class Outcome:
    """Hold how a fault ended.

    Args:
        fault: its name.
        handled: the labels came, or the right error.
        lost: labels missing or wrong.
        twice: requests of which the client received two usable answers.
        billed: calls that the server bills.
        counted: calls that the ledger counts, the perhaps billed among them.
        seconds: of it all.
        message: of the error.
    """

    fault: str
    handled: bool
    lost: int
    twice: int
    billed: int
    counted: int
    seconds: float
    message: str = ""


def try_fault(fault: str, count: int, folder: Path) -> Outcome:
    """Label under one fault, and once more from the ledger."""
    mended = fault in MENDED
    with serving(faults=(fault,) if mended else (), always="" if mended else fault, late=1.2 * TIMEOUT) as server:
        teacher, begin, message, missing = make(server, folder), time.monotonic(), "", 0
        try:
            missing = lost(teacher, some(count))
            lost(make(server, folder), some(count))
        except AttarError as error:
            message, missing = str(error), count if mended else 0
        seconds = time.monotonic() - begin
        twice = sum(times > 1 for times in server.received.values())
        said = MESSAGES[fault] in message and server.seen.total() <= CONCURRENCY if not mended else not message
        billed, counted = server.billed.total(), teacher.ledger.total.calls
        handled = said and not missing and not twice and billed <= counted
        return Outcome(fault, handled, missing, twice, billed, counted, seconds, message)


def try_cap(fault: str, cap: int, folder: Path) -> tuple[int, int]:
    """Return the calls billed beyond a cap, and labels lost once the cap was raised; the cap falls amid calls."""
    with serving(faults=(fault,) if fault else (), latency=0.002, late=1.2 * TIMEOUT) as server:
        try:
            make(server, folder, max_calls=cap, concurrency=16).answer(some(2 * cap))
            raise RuntimeError("the cap was not reached")
        except AttarError as error:
            if "max_calls" not in str(error):
                raise
        over = max(0, server.billed.total() - cap)
        return over, lost(make(server, folder, max_calls=10 * cap), some(2 * cap))


def label(url: str, count: int, ledger: Path, cap: int) -> None:
    """Label in a process of its own, until it is killed or done."""
    settings = EndpointTeacher.Settings(base_url=url, model=MODEL, concurrency=CONCURRENCY, max_calls=cap)
    EndpointTeacher(settings, PROMPT, ledger).prepare(some(count))


@dataclass
class Killed:
    """Hold what kills did: how many hit, labels lost, answered requests sent again, others sent again, calls over."""

    kills: int
    lost: int
    paid_twice: int
    again: int
    over: int


def kill(count: int, kills: int, draw: random.Random, folder: Path) -> Killed:
    """Kill a labeling process at random instants and continue it, until all is labelled."""
    cap = count + kills * CONCURRENCY
    folder.mkdir()
    done: set[str] = set()
    bills: Counter[str] = Counter()
    hit = twice = 0
    with serving(latency=LATENCY) as server:
        teacher = make(server, folder, max_calls=cap, timeout=60)
        command = [sys.executable, __file__, "--child", server.url, str(count), str(teacher.ledger.path), str(cap)]
        while hit < kills:
            with subprocess.Popen(command) as child:
                wait(server, child)
                time.sleep(draw.uniform(0, LONGEST))
                child.send_signal(signal.SIGKILL)
            hit += child.returncode == -signal.SIGKILL
            time.sleep(3 * LATENCY)  # the server ends what it was answering
            twice += sum(server.billed[server.named[key]] > bills[key] for key in done)
            teacher.ledger.refresh()
            done = {key for key in teacher.requests(some(count)) if key in teacher.ledger}
            bills = Counter({key: server.billed[server.named[key]] for key in done})
            print(f"  kill {hit}: {len(done)} of {count} answered", flush=True)
            if child.returncode == 0:
                break
        missing = lost(teacher, some(count))
        twice += sum(server.billed[server.named[key]] > bills[key] for key in done)
        again = sum(times > 1 for times in server.billed.values())
        return Killed(hit, missing, twice, again, max(0, server.billed.total() - cap))


def wait(server: FakeEndpoint, child: subprocess.Popen[bytes]) -> None:
    """Wait for a process's first call."""
    before = server.seen.total()
    while server.seen.total() == before and child.poll() is None:
        time.sleep(0.005)


def main(words: Sequence[str]) -> int:
    """Fail, kill and cap; the exit status is 1 if anything was lost, paid twice or over a cap."""
    if words[:1] == ["--child"]:
        label(words[1], int(words[2]), Path(words[3]), int(words[4]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=200, help="to label under each fault")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="attar-endpoint-") as work:
        place = Path(work)
        print(f"{'fault':12} {'handled':8} {'lost':>4} {'twice':>5} {'billed':>6} {'counted':>7} {'seconds':>7}")
        outcomes = [try_fault(fault, given.texts, place / fault) for fault in (*MENDED, *FATAL)]
        for one in outcomes:
            row = f"{one.fault:12} {one.handled!s:8} {one.lost:4} {one.twice:5} {one.billed:6} {one.counted:7}"
            print(f"{row} {one.seconds:7.2f}  {one.message[:100]}", flush=True)
        caps = {fault: try_cap(fault, given.texts // 2, place / f"cap-{fault}") for fault in CAP_FAULTS}
        print("caps, calls over: " + ", ".join(f"{fault or 'no fault'} {over}" for fault, (over, _) in caps.items()))
        killed = kill(120 * given.kills, given.kills, random.Random(given.seed), place / "kill")
    print(f"{killed.kills} kills: {killed}")
    figures = {
        "faults": sum(one.handled for one in outcomes),
        "labels_lost": sum(one.lost for one in outcomes) + sum(missing for _, missing in caps.values()) + killed.lost,
        "paid_twice": sum(one.twice for one in outcomes) + killed.paid_twice,
        "cap_overshoot_calls": max(killed.over, *(over for over, _ in caps.values())),
        "kills": killed.kills,
        "in_flight_paid_again": killed.again,
    }
    good = figures["faults"] == len(outcomes) and not (figures["labels_lost"] or figures["paid_twice"])
    if given.texts >= 200 and given.kills >= 10:
        conditions = {
            "texts": given.texts,
            "concurrency": CONCURRENCY,
            "faults": [*MENDED, *FATAL],
            "caps_under": [fault or "no fault" for fault in CAP_FAULTS],
            "calls_billed": {one.fault: one.billed for one in outcomes},
            "in_flight_paid_again": "requests that were on their way at a kill: their answers reached nobody",
        }
        write_result("endpoint", figures, [given.seed], conditions, "python benchmarks/endpoint.py")
    else:
        print(json.dumps(figures))
    return 0 if good and not figures["cap_overshoot_calls"] and killed.kills == given.kills else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
