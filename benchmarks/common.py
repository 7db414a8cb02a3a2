"""Help benchmarks: the machine, and the committed form of a result."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, versions of Python and of the libraries."""
    from attar.pipeline.keys import machine as facts

    return dict(facts())


def commit() -> str:
    """Return the commit that is checked out, with ``+changes`` if the package that runs is not that commit's."""
    import attar

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    elsewhere = not Path(attar.__file__).resolve().is_relative_to(ROOT)
    changed = elsewhere or git("status", "--porcelain", "--", "src").strip()
    return git("rev-parse", "HEAD").strip() + ("+changes" if changed else "")


def slug(processor: str) -> str:
    """Return a processor's name as a part of a file name.

    Example:
        >>> slug("AMD EPYC 9B14")
        'amd-epyc-9b14'
    """
    return re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")


def write_result(
    name: str, figures: Mapping[str, Any], seeds: Sequence[int], conditions: Mapping[str, Any], command: str
) -> Path:
    """Write a benchmark's result into ``benchmarks/results`` and print it as the last line.

    Args:
        name: the benchmark.
        figures: numbers, flat or one level deep.
        seeds: that it ran with.
        conditions: what a reader must know to repeat it.
        command: that repeats it.

    Returns:
        The file.

    Raises:
        ValueError: a figure is not a number.
    """
    flat = [v for value in figures.values() for v in (value.values() if isinstance(value, Mapping) else (value,))]
    if not all(isinstance(value, int | float) for value in flat):
        raise ValueError(f"figures must be numbers, flat or one level deep, got {figures}")
    facts = machine()
    body = {
        "benchmark": name,
        "commit": commit(),
        "command": command,
        "machine": facts,
        "seeds": list(seeds),
        "figures": dict(figures),
        "conditions": dict(conditions),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.{slug(str(facts['processor']))}.json"
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(body, ensure_ascii=False))
    return path
