#!/usr/bin/env python3
"""Fill the README's table of measurements from benchmarks/results/*.json.

    python tools/figures.py            writes the table between the markers in README.md
    python tools/figures.py --check    writes nothing; exit status 1 if the table is not what the results say

A result that is not there has no row; nothing is written from memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import marked

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.1f} %"


def ratio(value: float) -> str:
    """Return a latency as a part of the teacher's, whichever of the two was divided by the other."""
    return f"1/{max(value, 1 / value):.1f} of the teacher's"


WRITERS = {"percent": percent, "ratio": ratio}

FIGURES: dict[str, tuple[str, str]] = {
    "seconds": ("whole run", "{:.0f} s"),
    "peak_rss_gb": ("peak memory", "{:.2f} GB"),
    "teacher_accuracy": ("teacher", "percent"),
    "teacher_own_prompt_accuracy": ("teacher with the recipe's own prompt", "percent"),
    "student_accuracy": ("student", "percent"),
    "control_accuracy": ("control (no teacher)", "percent"),
    "exported_accuracy": ("exported student", "percent"),
    "bundle_mb": ("bundle", "{:.1f} MB"),
    "p50_ratio": ("latency at batch 1 (p50)", "ratio"),
    "agreement": ("exported agrees with PyTorch", "percent"),
    "kills": ("SIGKILLs at random instants", "{:.0f}"),
    "equal": ("continued runs with the undisturbed run's figures", "{:.0f}"),
    "cases": ("wrong recipes, data files and models", "{:.0f}"),
    "clear": ("of them answered by one clear message", "{:.0f}"),
}
"""Figure -> how the table calls it and writes it; the order is the table's."""

ORDER = ("reviews", "reuters", "digits", "kill", "mistakes")
EMPTY = "No result is committed yet.\n"


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the committed results, in the table's order."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    places = {name: place for place, name in enumerate(ORDER)}
    return sorted(found, key=lambda one: (places.get(one["benchmark"], len(ORDER)), one["benchmark"]))


def flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield each figure by its name; one level down, names are joined by a period."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", one) for inner, one in value.items())
        else:
            yield name, value


def cell(figures: Mapping[str, Any]) -> str:
    """Return the figures of one result in words."""
    values = dict(flat(figures))
    names = [*(name for name in FIGURES if name in values), *(name for name in values if name not in FIGURES)]
    words = []
    for name in names:
        label, form = FIGURES.get(name, (name.replace("_", " "), "{:g}"))
        words.append(f"{label} **{WRITERS.get(form, form.format)(values[name])}**")
    return "; ".join(words)


def table(found: list[dict[str, Any]]) -> str:
    """Return the Markdown table of all results."""
    if not found:
        return EMPTY
    lines = ["| benchmark | measured | machine | commit |", "|---|---|---|---|"]
    for one in found:
        machine = f"{one['machine']['processor']}, {one['machine']['cores']} cores"
        commit, changed, _ = one["commit"].partition("+")  # "+changes": the package differed from the commit
        state = f"`{commit[:7]}`{' with changes' if changed else ''}"
        lines.append(f"| `{one['benchmark']}` | {cell(one['figures'])} | {machine} | {state} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the table, or tell whether it is stale."""
    parser = argparse.ArgumentParser(description="Fill the README's table of measurements.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is stale")
    given = parser.parse_args()
    fresh = marked.update(ROOT / "README.md", "measured", table(results(RESULTS)), given.check)
    if given.check and not fresh:
        print("README.md: the table of measurements is stale. Run: make docs", file=sys.stderr)
        return 1
    print(f"figures: README.md {'is fresh' if fresh else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
