"""Run a ready recipe whole, from an empty cache, and keep its figures.

    python benchmarks/recipes.py digits
    python benchmarks/recipes.py reuters
    python benchmarks/recipes.py reviews

The run is a fresh process, as a user starts it. Seconds are those of the whole command, the fetching of sources
included. Peak memory is the largest sum of the resident memory of the command and of every process it started,
sampled five times a second; pages that processes share are counted in each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import write_result

RECIPES = ("digits", "reuters", "reviews")
SAMPLE_SECONDS = 0.2


def resident(process: int) -> int:
    """Return the resident bytes of a process and of all below it; 0 for one that has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)


def run(recipe: str, folder: Path) -> tuple[float, int]:
    """Run a recipe and return its seconds and peak bytes.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    environment = {**os.environ, "ATTAR_CACHE": str(folder / "cache"), "ATTAR_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "attar", "run", recipe]
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], resident(process.pid))
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    watcher.join()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
    return time.monotonic() - begin, peak[0]


def figures(recipe: str, summary: Mapping[str, Any], seconds: float, peak: int) -> dict[str, float]:
    """Return the figures that the recipe promises."""
    models = {model["name"]: model for model in summary["models"]}
    accuracy = {f"{name}_accuracy": model["quality"]["value"] for name, model in models.items()}
    found = {
        **accuracy,
        "seconds": round(seconds, 1),
        "peak_rss_gb": round(peak / 1e9, 3),
        "bundle_mb": round(models["exported"]["bytes"] / 1e6, 3),
        "p50_ratio": round(models["teacher"]["latency_ms"]["p50"] / models["exported"]["latency_ms"]["p50"], 2),
        "teacher_p50_ms": models["teacher"]["latency_ms"]["p50"],
        "exported_p50_ms": models["exported"]["latency_ms"]["p50"],
        "agreement": summary["checks"][0]["value"],
        "parameter_ratio": round(models["teacher"]["parameters"] / models["exported"]["parameters"], 2),
        "student_over_control": summary["verdict"]["difference"],
        "student_over_control_low": summary["verdict"]["low"],
        "student_over_control_high": summary["verdict"]["high"],
    }
    if summary["prompt"]:
        found["teacher_own_prompt_accuracy"] = summary["prompt"]["teacher"]["before"]["quality"]["value"]
    return found


def main() -> None:
    """Run one recipe and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--keep", type=Path, help="leave cache and run in this folder (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        seconds, peak = run(options.recipe, folder)
        summary = json.loads((folder / "runs" / options.recipe / "summary.json").read_text(encoding="utf-8"))
    found = figures(options.recipe, summary, seconds, peak)
    for name, value in found.items():
        print(f"{name:32}{value}")
    conditions = {
        "examples": summary["examples"],
        "verdict": summary["verdict"]["result"],
        "control_learns_from": summary["control_learns_from"],
        "latency": "batch 1, the same test examples, processes interleaved",
        "load_average": round(os.getloadavg()[2], 2),
    }
    write_result(options.recipe, found, [summary["seed"]], conditions, f"python benchmarks/recipes.py {options.recipe}")


if __name__ == "__main__":
    main()
