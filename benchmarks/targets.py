"""Ask for bytes and milliseconds, and see what comes: three targets that can be met, and one that cannot.

    python benchmarks/targets.py --fashion /usr/share/datasets/fashion-mnist     about 60 minutes on two cores
    python benchmarks/targets.py --quick                                         a try of every part; writes no result

Each task is one recipe with `compress: {to: {bytes: ..., p50: ...}}`, run by attar itself: a CNN on Fashion-MNIST
(without --fashion: on scikit-learn's digits), MiniLM on reviews, MiniLM on Reuters R8. Asked is what the recipe says;
got is what the finished run measured of the exported bundle. A target is met where neither is more than 5 % above.
The milliseconds asked for are a share (SHARE) of what the uncompressed model's bundle takes on this machine, untrained,
so that another machine is asked for as much. The impossible target must be refused before any stage has trained.

A killed run goes on: runs lie in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compress_data import ENCODER, ENCODER_SHA, Work, base_parser, finish
from prompt_tasks import REUTERS, REVIEWS

SLACK = 1.05
TRAINED = ("teacher", "student", "control", "dense", "compress")
ENCODED = {"model": ENCODER, "sha256": ENCODER_SHA}
TRAIN = {"epochs": 2, "batch_size": 32, "learning_rate": 0.0001}
IMAGES = {"batch_size": 128, "learning_rate": 0.002}
ASKED = {"images": 60_000, "reviews": 9_000_000, "r8": 9_000_000}
"""Bytes asked for."""
SHARE = {"images": 0.6, "reviews": 0.25, "r8": 0.25}
"""Of the uncompressed bundle's p50 that is asked for."""
IMPOSSIBLE = 50_000
"""Bytes that MiniLM cannot be brought to: its smallest table of tokens is larger."""


def recipes(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return name -> the recipe without its target."""
    texts = {
        "teacher": {**ENCODED, "train": TRAIN},
        "student": ENCODED,
        "distill": {**TRAIN, "control": False},
        "task": "text-classification",
    }
    source: dict[str, Any] = {"source": "sklearn:digits", "validation": 200, "test": 400}
    if given.fashion is not None:
        source = {"source": str(given.fashion), "format": "idx", "validation": 2000, "train": 20000}
    images = {
        "task": "image-classification",
        "data": source,
        "teacher": {"build": {"widths": [32, 64, 128], "hidden": 128}, "train": {**IMAGES, "epochs": 3}},
        "student": {"build": {"widths": [32, 64, 128], "hidden": 128}},
        "distill": {**IMAGES, "epochs": 3, "control": False},
    }
    found: dict[str, dict[str, Any]] = {
        "images": images,
        "reviews": {**texts, "data": {**REVIEWS.source, "train": 3000, "validation": 400, "test": 1000}},
        "r8": {**texts, "data": {**REUTERS.source, "validation": 400}},
    }
    return {name: quick(body) if given.quick else body for name, body in found.items()}


def quick(body: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe that learns next to nothing."""
    data = {**body["data"], "train": 120, "validation": 40}
    if "test_source" not in data:
        data["test"] = 40
    short = {"steps": 2, "batch_size": 8}
    teacher = {**body["teacher"], "train": short}
    measure = {"texts": 8, "agreement": 0.0}
    return {**body, "data": data, "teacher": teacher, "distill": {**short, "control": False}, "measure": measure}


def whole_cost(body: dict[str, Any], work: Path) -> dict[str, float]:
    """Return what the bundle of the uncompressed student costs, untrained."""
    from attar.settings import cache_folder
    from attar.sources import data
    from attar.sources.data_settings import DataSettings
    from attar.stages.assets import fetch_weights
    from attar.stages.distill import Origin
    from attar.stages.dry import dry_cost
    from attar.students.settings import ModelSettings

    found = data.read(DataSettings(**body["data"]), Path.cwd(), cache_folder(), 0)
    settings = ModelSettings(**body["student"])
    weights = fetch_weights(settings, Path.cwd(), cache_folder())
    shape = () if weights is not None else tuple(int(size) for size in found.train.inputs.shape[1:])  # type: ignore[union-attr]
    cost = dry_cost(Origin(settings, weights, found.labels, shape).make, body["task"], (), found, work)
    return {"bytes": cost.bytes, "p50": cost.p50}


def met(name: str, body: dict[str, Any], given: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Run a recipe with a target and return what was asked and got."""
    import attar

    whole = whole_cost(body, work.place(f"{name}-whole")[0] / "cost")
    asked: dict[str, Any] = {"bytes": ASKED[name] if not given.quick else round(0.6 * whole["bytes"])}
    asked["p50"] = round((0.9 if given.quick else SHARE[name]) * whole["p50"], 4)
    recover: dict[str, Any] = {"steps": 2, "batch_size": 8} if given.quick else {"epochs": 2, "patience": None}
    recover |= {} if given.quick or name == "images" else {"learning_rate": 0.0003}
    compress = {"to": asked, "recover": recover, "dense": False}
    summary = attar.run({**body, "name": name, "seed": given.seed, "compress": compress}, work.folder / name).summary
    models = {model["name"]: model for model in summary["models"]}
    exported, plan = models["exported"], summary["plan"]
    return {
        "asked_bytes": asked["bytes"],
        "got_bytes": exported["bytes"],
        "asked_p50": asked["p50"],
        "got_p50": exported["latency_ms"]["p50"],
        "expected_p50": plan["expected"]["p50"],
        "teacher_accuracy": models["teacher"]["quality"]["value"],
        "got_accuracy": exported["quality"]["value"],
        "tried": len(plan["tried"]),
        "steps": str(plan["steps"]),
    }


def impossible(body: dict[str, Any], given: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Run a recipe whose target cannot be met, and return what it says, and how many stages it began that train."""
    import attar
    from attar.errors import AttarError

    said, folder = "", work.folder / "impossible"
    try:
        attar.run({**body, "name": "impossible", "seed": given.seed, "compress": {"to": {"bytes": IMPOSSIBLE}}}, folder)
    except AttarError as error:
        said = str(error)
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    begun = [row["stage"] for row in map(json.loads, lines) if row.get("event") == "stage-start"]
    return {"said": said, "trained": sum(stage.split("_")[0] in TRAINED for stage in begun), "begun": begun}


def table(found: dict[str, dict[str, Any]], refused: dict[str, Any]) -> None:
    """Print the results for people."""
    print(f"{'task':<10}{'asked MB':>10}{'got MB':>10}{'asked ms':>10}{'got ms':>10}{'accuracy':>10}  met  steps")
    for name, row in found.items():
        sizes = f"{row['asked_bytes'] / 1e6:>10.3f}{row['got_bytes'] / 1e6:>10.3f}"
        times = f"{row['asked_p50']:>10.3f}{row['got_p50']:>10.3f}{row['got_accuracy']:>10.4f}"
        print(f"{name:<10}{sizes}{times}  {'yes' if holds(row) else 'no':<5}{row['steps']}")
    print(f"impossible: stages that train begun: {refused['trained']}; said: {refused['said']}")


def holds(row: dict[str, Any]) -> bool:
    """Tell whether a target is met within the slack."""
    return all(row[f"got_{what}"] <= SLACK * row[f"asked_{what}"] for what in ("bytes", "p50"))


def main() -> None:
    """Run the benchmark."""
    parser = base_parser(__doc__, "targets")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's IDX files")
    given = parser.parse_args()
    work = Work(given, "targets")
    bodies = recipes(given)
    found = {name: work.once(f"met-{name}", partial(met, name, body, given, work)) for name, body in bodies.items()}
    refused = work.once("refused", lambda: impossible(bodies["r8"], given, work))
    table(found, refused)
    numbers = {
        name: {**{key: value for key, value in row.items() if key != "steps"}, "met": int(holds(row))}
        for name, row in found.items()
    }
    figures: dict[str, Any] = {**numbers, "tasks_met": sum(row["met"] for row in numbers.values())}
    figures["impossible"] = {
        "asked_bytes": IMPOSSIBLE,
        "refused": int("nearest" in refused["said"]),
        "stages_trained": refused["trained"],
    }
    conditions = {
        "asked": f"bytes as in the script; p50 a share of what the whole bundle takes here, untrained: {SHARE}",
        "got": "of the exported bundle: all of its files; p50 of test examples one at a time, models taking turns",
        "met": f"neither more than {100 * (SLACK - 1):.0f} % above what was asked",
        "steps": {name: row["steps"] for name, row in found.items()},
        "impossible": refused["said"],
        "images": "digits" if given.fashion is None else "Fashion-MNIST, 20,000 training images",
    }
    finish(work, figures, given, conditions)


if __name__ == "__main__":
    main()
