"""Make every mistake we could think of, each in a real process, and judge what the user gets.

A case is clear if the exit status is 2, stderr holds one message and it names what is wrong, nothing goes to stdout,
nothing half-written is left where a later run would read it, and the user's own files are as they were.

    python benchmarks/mistakes.py                 all cases; about four minutes on two cores
    python benchmarks/mistakes.py --only wheel    those whose name holds a word; writes no result
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import write_result
from mistake_cases import CASES, Case
from workbench import Bench, make_bundle, make_model

MOST_LINES = 15
RUN_FILES = {".lock", "recipe.yaml", "journal.jsonl"}  # what a run that failed may leave in its folder


@dataclass(frozen=True)
class Verdict:
    """Hold what a case gave.

    Args:
        name: the case.
        status: exit status.
        message: what stderr said from "error:" on.
        faults: why it is not clear; empty if it is.
        seconds: the process took.
        skipped: this machine cannot make the case.
    """

    name: str
    status: int
    message: str
    faults: tuple[str, ...]
    seconds: float
    skipped: bool = False


def judge(case: Case, stock: Path, folder: Path) -> Verdict:
    """Run a case and judge it."""
    bench = Bench(folder, stock)
    try:
        words = case.spoil(bench)
        if words is None:
            return Verdict(case.name, 0, "this machine cannot make it", (), 0.0, skipped=True)
        before = own_files(bench)
        begin = time.monotonic()
        done = bench.attar(words)
        seconds = time.monotonic() - begin
        message = done.stderr[done.stderr.find("error:") :].strip() if "error:" in done.stderr else done.stderr.strip()
        faults = [*spoken(done.returncode, done.stdout, done.stderr, message, case), *left(bench, case)]
        if own_files(bench) != before:
            faults.append("the user's own files changed")
        return Verdict(case.name, done.returncode, message, tuple(faults), seconds)
    finally:
        bench.close()


def spoken(status: int, stdout: str, stderr: str, message: str, case: Case) -> list[str]:
    """Return what is wrong with the words and the status."""
    faults = [] if status == 2 else [f"status {status}"]
    if "Traceback" in stderr:
        faults.append("a traceback")
    starts = [line for line in stderr.splitlines() if line.startswith("error:")]
    if len(starts) != 1:
        faults.append(f"{len(starts)} messages")
    if len(message.splitlines()) > MOST_LINES or len(message) > 2000:
        faults.append(f"{len(message.splitlines())} lines, {len(message)} characters")
    faults += [f"does not say {word!r}" for word in case.words if word not in message]
    return faults + ([f"stdout: {stdout[:60]!r}"] if stdout else [])


def own_files(bench: Bench) -> dict[str, tuple[int, int]]:
    """Return the files that are the user's: all but attar's cache and runs."""
    skip = ("cache", "runs", "hf", "disk", "run")
    found = {}
    for path in sorted(bench.folder.rglob("*")):
        name = path.relative_to(bench.folder)
        if name.parts[0] not in skip and path.is_file():
            found[name.as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


def left(bench: Bench, case: Case) -> list[str]:
    """Return what was left half-written where a later run would read it."""
    faults = [f"left {folder.name} in the store" for folder in _artifacts(bench) if _kind(folder) not in case.stored]
    for home in bench.cache.glob("sources/*"):
        if not (home / ".files.json").is_file():
            faults.append(f"left {home.name} among the sources")
    faults += [f"left {p.name}" for root in (bench.folder, bench.cache) if root.is_dir() for p in root.rglob("*.tmp")]
    for run in (*bench.folder.glob("runs/*"), bench.folder / "run", bench.folder / "disk" / "run"):
        if run.is_dir() and not (run / "summary.json").exists():
            faults += [f"left {path.name} in the run" for path in run.iterdir() if path.name not in RUN_FILES]
    return faults


def _artifacts(bench: Bench) -> list[Path]:
    return sorted(bench.cache.glob("artifacts/*")) if bench.cache.is_dir() else []


def _kind(folder: Path) -> str:
    """Return the kind of an artifact that is whole by its own card, else nothing."""
    card = folder / "artifact.json"
    return str(json.loads(card.read_text(encoding="utf-8"))["kind"]) if card.is_file() else ""


def show(verdict: Verdict) -> None:
    """Print one row of the table."""
    first = (verdict.message.splitlines() or [""])[0].removeprefix("error: ")
    if first.endswith(("mistake:", "mistakes:")):
        first = ([*verdict.message.splitlines(), "", ""])[1].strip()
    state = "skipped" if verdict.skipped else "ok" if not verdict.faults else "NOT CLEAR"
    print(f"{state:10}{verdict.status:>3}{verdict.seconds:6.1f} s  {verdict.name:48}{first[:110]}", flush=True)
    if verdict.faults:
        print(f"{'':22}{'; '.join(verdict.faults)}\n{verdict.message[-1500:]}", flush=True)


def main(words: Sequence[str]) -> int:
    """Run the cases; the exit status is 1 if one is not clear."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    only = parser.parse_args(words).only
    chosen = [case for case in CASES if only in case.name]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="attar-mistakes-") as work:
        stock = Path(work) / "stock"
        make_model(stock / "model")
        make_bundle(stock / "bundle")
        for number, case in enumerate(chosen):
            folder = Path(work) / f"{number:03d}"
            folder.mkdir()
            verdicts.append(judge(case, stock, folder))
            show(verdicts[-1])
    done = [verdict for verdict in verdicts if not verdict.skipped]
    clear = sum(not verdict.faults for verdict in done)
    seconds = sum(verdict.seconds for verdict in done)
    print(f"\n{clear} of {len(done)} mistakes are clear; {len(verdicts) - len(done)} skipped; {seconds:.0f} s")
    if not only:
        figures = {"cases": len(done), "clear": clear}
        conditions = {"skipped": [verdict.name for verdict in verdicts if verdict.skipped], "seconds": round(seconds)}
        write_result("mistakes", figures, [], conditions, "python benchmarks/mistakes.py")
    return 0 if clear == len(done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
