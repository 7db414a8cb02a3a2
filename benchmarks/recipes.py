"""Run a ready recipe whole, from an empty cache, and keep its figures.

    python benchmarks/recipes.py digits
    python benchmarks/recipes.py reuters
    python benchmarks/recipes.py reviews
    python benchmarks/recipes.py titles

The run is a fresh process, as a user starts it. Seconds are those of the whole command, the fetching of sources
included; they are left out when the folder of ``--keep`` held results already. Peak memory is that of the command and
of every process it started together, sampled five times a second: ``peak_rss_gb`` adds their resident memory, in which
pages that they share (libraries) are counted once for each; ``peak_pss_gb`` counts a shared page once.
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

RECIPES = ("digits", "reuters", "reviews", "titles")
SAMPLE_SECONDS = 0.2


def resident(process: int) -> tuple[int, int]:
    """Return the resident bytes of a process and of all below it, shared pages counted in each, and counted once."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0, 0
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("Rss:", "Pss:"))}
    rss, pss = found.get("Rss", 0), found.get("Pss", 0)
    for child in children:
        more_rss, more_pss = resident(int(child))
        rss, pss = rss + more_rss, pss + more_pss
    return rss, pss


def run(recipe: str, folder: Path) -> tuple[float, tuple[int, int]]:
    """Run a recipe and return its seconds and its peaks of resident bytes (see `resident`).

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    environment = {**os.environ, "ATTAR_CACHE": str(folder / "cache"), "ATTAR_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "attar", "run", recipe]
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    peak = [0, 0]

    def watch() -> None:
        while process.poll() is None:
            peak[:] = map(max, peak, resident(process.pid))
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    watcher.join()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
    return time.monotonic() - begin, (peak[0], peak[1])


def figures(summary: Mapping[str, Any], seconds: float, peak: tuple[int, int]) -> dict[str, float]:
    """Return the figures that the recipe promises."""
    models = {model["name"]: model for model in summary["models"]}
    writes = summary["task"] == "text-generation"
    kind = "rouge" if writes else "accuracy"
    quality = {f"{name}_{kind}": model["quality"]["value"] for name, model in models.items()}
    found = {
        **quality,
        **(written(summary, models) if writes else {}),
        "seconds": round(seconds, 1),
        "seconds_of_stages": summary["seconds"]["total"],
        "peak_rss_gb": round(peak[0] / 1e9, 3),
        "peak_pss_gb": round(peak[1] / 1e9, 3),
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
    if "teacher" in (summary["prompt"] or {}):
        found["teacher_own_prompt_accuracy"] = summary["prompt"]["teacher"]["before"]["quality"]["value"]
    return found


def written(summary: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return what only models that write have: perplexities, and the share of the gap to the teacher recovered."""
    verdict = summary["verdict"]
    recovered = {
        f"gap_recovered_{name}": share for name, share in verdict["gap_recovered"].items() if share is not None
    }
    return {
        **{f"{name}_ppl": round(model["perplexity"]["value"], 3) for name, model in models.items()},
        **{f"{name}_tokens_per_s": model["tokens_per_second"] for name, model in models.items()},
        **{f"{name}_{end}": model["quality"][end] for name, model in models.items() for end in ("low", "high")},
        "gap_recovered": verdict["gap_recovered"]["rouge_l"],
        **recovered,
        "nats_over_control": verdict["perplexity"]["value"],
        "nats_over_control_low": verdict["perplexity"]["low"],
        "nats_over_control_high": verdict["perplexity"]["high"],
    }


def main() -> None:
    """Run one recipe and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--keep", type=Path, help="leave cache and run in this folder (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        fresh = not (folder / "cache" / "artifacts").exists()
        seconds, peak = run(options.recipe, folder)
        summary = json.loads((folder / "runs" / options.recipe / "summary.json").read_text(encoding="utf-8"))
    found = figures(summary, seconds, peak)
    if not fresh:  # what was stored before took its time and memory then
        found = {name: value for name, value in found.items() if name not in ("seconds", "peak_rss_gb", "peak_pss_gb")}
    for name, value in found.items():
        print(f"{name:32}{value}")
    conditions = {
        "examples": summary["examples"],
        "verdict": summary["verdict"]["result"],
        "verdict_perplexity": summary["verdict"].get("perplexity", {}).get("result", "none"),
        "control_learns_from": summary["control_learns_from"],
        "latency": "batch 1, the same test examples, processes interleaved",
        "load_average": round(os.getloadavg()[2], 2),
    }
    write_result(options.recipe, found, [summary["seed"]], conditions, f"python benchmarks/recipes.py {options.recipe}")


if __name__ == "__main__":
    main()
