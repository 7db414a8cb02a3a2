"""Kill a run at random instants, again and again, and see that it ends as if nothing had happened.

The recipe `digits` runs once undisturbed. Then, in a cache of its own, it is started and killed with SIGKILL after a
random wait, and started again with the same command, until it has finished; further runs follow until there were
enough kills. Half of the waits begin with the process, the others with a stage that no kill has hit yet, so that the
short ones are hit too. Every final summary must equal the undisturbed one, but for times, memory and the date. No
finished stage and no answered shard may be done again, no checkpoint may go back, and no child may outlive its parent.

    python benchmarks/kill.py                      20 kills; about ten minutes on two cores
    python benchmarks/kill.py --kills 3 --seed 1   fewer; writes no result
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import write_result

RECIPE = ("digits", "--set", "teacher.train.checkpoint_seconds=0.5", "--set", "distill.checkpoint_seconds=0.5")
TIMES = frozenset(
    {"seconds", "latency_ms", "load_seconds", "peak_rss_bytes", "loaded_rss_bytes", "against", "grid", "date"}
)
"""Keys of a summary, at any depth, that hold times, memory or the date: they differ between any two runs."""
SHORTEST, LONGEST = 1.0, 14.0  # seconds before a kill; the libraries alone take some of them to load
INSIDE = 0.8  # seconds after a stage's begin; most stages of this recipe take longer
ORPHAN_SECONDS = 10.0


def comparable(value: Any) -> Any:
    """Return a summary without what differs between any two runs: see `TIMES`.

    Example:
        >>> comparable({"seed": 0, "models": [{"bytes": 9, "latency_ms": {"p50": 1.0}}]})
        {'seed': 0, 'models': [{'bytes': 9}]}
    """
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items() if key not in TIMES}
    return [comparable(inner) for inner in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return the paths at which two summaries differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for place, (a, b) in pairs for d in differences(a, b, f"{where}[{place}]")]
    return [] if one == other else [f"{where}: {one!r} against {other!r}"]


@dataclass
class Lab:
    """Hold one run, with a cache of its own.

    Args:
        folder: fresh.
        recipe: the words after ``attar run``.
        steps: stage -> step of the newest checkpoint seen so far.
        shards: recorded shard -> its time of writing, as first seen.
        faults: what went wrong.
    """

    folder: Path
    recipe: Sequence[str] = RECIPE
    steps: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    orphans: int = 0

    @property
    def run(self) -> Path:
        """Return the run's folder."""
        return self.folder / "run"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the run, or go on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "ATTAR_CACHE": str(self.folder / "cache"), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "attar", "run", *self.recipe, "--folder", str(self.run)]
        with (self.folder / "stderr").open("ab") as words:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stderr=words,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def finish(self) -> dict[str, Any]:
        """Run to the end and return the summary."""
        return self.ended(self.start().wait())

    def ended(self, status: int) -> dict[str, Any]:
        """Return the summary of a run that ended by itself.

        Raises:
            RuntimeError: it failed.
        """
        if status:
            raise RuntimeError((self.folder / "stderr").read_text(errors="replace")[-3000:])
        summary: dict[str, Any] = json.loads((self.run / "summary.json").read_text(encoding="utf-8"))
        return summary

    def killed(self, stage: str | None, wait: float) -> bool:
        """Start, wait, if a stage is given until it has begun and then on, and kill; return False if the run ended."""
        process = self.start()
        while stage is not None and not self.begun(stage) and process.poll() is None:
            time.sleep(0.01)
        try:
            self.ended(process.wait(wait))
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._await_children(process.pid)
        self._look()
        return True

    def begun(self, stage: str) -> bool:
        """Tell whether a stage has begun in some try."""
        return any(event["event"] == "stage-start" and event["stage"] == stage for event in self.events())

    def _await_children(self, group: int) -> None:
        """Wait until no child of a killed run is left; one that stays is an orphan and is killed."""
        end = time.monotonic() + ORPHAN_SECONDS
        while time.monotonic() < end:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
        self.orphans += 1
        os.killpg(group, signal.SIGKILL)

    def _look(self) -> None:
        """Note how far the work has come, and that it never goes back."""
        for path in self.folder.glob("cache/work/*/checkpoint/step-*"):
            stage, step = path.parent.parent.name.partition("-")[0], path.name.partition("-")[2]
            if not step.isdigit():
                continue
            self.steps[stage] = max(self.steps.get(stage, 0), int(step))
        for stage, step in self.steps.items():
            now = [
                int(p.name[5:])
                for p in self.folder.glob(f"cache/work/{stage}-*/checkpoint/step-*")
                if p.name[5:].isdigit()
            ]
            if now and max(now) < step:
                self.faults.append(f"the checkpoint of {stage} went back from step {step} to {max(now)}")
        for path in self.folder.glob("cache/work/record-*/shards/*.safetensors"):
            if self.shards.setdefault(path.name, path.stat().st_mtime_ns) != path.stat().st_mtime_ns:
                self.faults.append(f"the shard {path.name} was answered again")

    def events(self) -> list[dict[str, Any]]:
        """Return the journal's events."""
        path = self.run / "journal.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
            try:
                found.append(json.loads(line))
            except ValueError:  # torn
                continue
        return found

    def at(self) -> str:
        """Return what the run was doing when its journal ended."""
        last = next(
            (event for event in reversed(self.events()) if event["event"] in ("run", "stage-start", "stage-done")), {}
        )
        if last.get("event") == "stage-start":
            return str(last["stage"])
        return "between stages" if last.get("event") == "stage-done" and not last["reused"] else "start"

    def repeated(self) -> list[str]:
        """Return the stages that were done more than once."""
        done = Counter(e["stage"] for e in self.events() if e["event"] == "stage-done" and not e["reused"])
        return [stage for stage, count in done.items() if count > 1]


def disturb(
    lab: Lab, missing: Sequence[str], rest: int, draw: random.Random, longest: float
) -> tuple[Counter[str], dict[str, Any]]:
    """Kill a run until it has finished, or ``rest`` more kills are done.

    Args:
        lab: the run.
        missing: stages that no kill has hit yet.
        rest: most kills.
        draw: of the instants.
        longest: seconds before a kill.

    Returns:
        The stages hit, and the final summary.
    """
    hit: Counter[str] = Counter()
    while hit.total() < rest:
        waiting = [stage for stage in missing if not hit[stage] and not lab.begun(stage)]
        stage = waiting[0] if waiting and draw.random() < 0.5 else None
        wait = INSIDE * draw.random() ** 3 if stage else draw.uniform(SHORTEST, longest)  # some stages take an instant
        if not lab.killed(stage, wait):
            break
        hit[lab.at()] += 1
        since = f"of {stage}" if stage else "of the try"
        print(f"  killed {wait:4.1f} s after the begin {since:12} in {lab.at():16} {lab.steps or ''}", flush=True)
    return hit, lab.finish()


def main(words: Sequence[str]) -> int:
    """Kill and compare; the exit status is 1 if a summary differs or work was repeated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="at least so many")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds before a kill")
    given = parser.parse_args(words)
    draw = random.Random(given.seed)
    hit: Counter[str] = Counter()
    equal = runs = orphans = 0
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="attar-kill-") as work:
        begin = time.monotonic()
        expected = comparable(Lab(Path(work) / "undisturbed").finish())
        print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)
        while hit.total() < given.kills:
            lab = Lab(Path(work) / f"run-{runs}")
            missing = [part["stage"] for part in expected["pipeline"] if not hit[part["stage"]]]
            found, summary = disturb(lab, missing, given.kills - hit.total(), draw, given.longest)
            apart = differences(expected, comparable(summary))
            repeated = [f"{stage} was done twice" for stage in lab.repeated()]
            runs, hit, orphans = runs + 1, hit + found, orphans + lab.orphans
            equal += 0 if apart else found.total()
            faults += [*apart, *repeated, *lab.faults]
            print(f"run {runs}: {found.total()} kills, {'equal' if not apart else 'DIFFERENT'}", flush=True)
            for fault in (*apart, *repeated, *lab.faults):
                print(f"  {fault[:300]}", flush=True)
    print("\nkills by stage: " + ", ".join(f"{stage} {count}" for stage, count in hit.most_common()))
    print(f"{equal} of {hit.total()} kills ended in the undisturbed summary, over {runs} runs; {orphans} orphans")
    stages = sum(hit[part["stage"]] > 0 for part in expected["pipeline"])
    figures = {"kills": hit.total(), "equal": equal, "runs": runs, "stages_hit": stages, "faults": len(faults)}
    figures["orphans"] = orphans
    if given.kills >= 20:
        conditions = {"recipe": " ".join(RECIPE), "by_stage": dict(hit), "left_out": sorted(TIMES)}
        write_result("kill", figures, [given.seed], conditions, "python benchmarks/kill.py")
    else:
        print(json.dumps(figures))
    return 0 if not faults and not orphans and equal == hit.total() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
