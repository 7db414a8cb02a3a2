"""Compress a small encoder: int8 against ONNX Runtime's best float32, then the whole chain down to 3 MB.

    python benchmarks/compress_encoder.py                  about 50 minutes on two cores
    python benchmarks/compress_encoder.py --quick          a try of every part; writes no result

MiniLM (6 layers) is fine-tuned on gold labels of Reuters R8 and of clothing reviews.

- int8: attar's dynamic_int8 against float32 in ONNX Runtime at 128 tokens, in processes of their own, taking turns.
  float32 is the fastest of three graphs of the same weights: as attar exports it, fused by onnxruntime.transformers'
  optimizer for BERT, and fused by onnxscript's rules for ONNX Runtime.
- chain, on R8, one recipe run by attar itself: vocabulary, depth, width, each recovering from the teacher's record,
  then int8. small_p50_ratio: p50 of the fine-tuned teacher, PyTorch in float32, over that of the bundle, both as the
  run measured them. The dense model of equal bytes that the run trains stands beside it.

A killed run goes on: parts, and the recipe's stages, lie in --work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from compress_data import ENCODER, ENCODER_SHA, Work, base_parser, finish, other_graph
from prompt_tasks import REUTERS, REVIEWS, Task, read

KIND = "text-classification"
LENGTH = 128
HEADS, WIDTH = 12, 384
TEACHER = {"epochs": 3, "batch_size": 32, "learning_rate": 0.0001}
RECOVER = {"batch_size": 32, "learning_rate": 0.0003, "validations": 8, "patience": None}
CHAIN: list[Any] = [
    {"use": "vocabulary", "minimum_count": 20},
    {"use": "depth", "layers": 2, "recover": {**RECOVER, "epochs": 4}},
    {"use": "width", "mlp": 0.5, "hidden": 0.33, "recover": {**RECOVER, "epochs": 8}},
    "dynamic_int8",
]
SIZES = {"r8": (100000, 400, 0), "reviews": (3000, 400, 1000)}


def fine_tuned(work: Work, task: Task, found: Any, steps: int | None, seed: int) -> Path:
    """Return the folder of MiniLM trained on gold labels."""
    from attar.settings import cache_folder
    from attar.stages.assets import fetch_weights, objective_of
    from attar.stages.distill import Origin, train_model
    from attar.stages.lesson import Lesson
    from attar.stages.schedule import TrainSettings
    from attar.students.settings import ModelSettings
    from attar.tasks.text_classification import TextClassification

    places = work.place(f"{task.name}-teacher")

    def make() -> int:
        settings = ModelSettings(model=ENCODER, sha256=ENCODER_SHA, max_length=LENGTH)
        weights = fetch_weights(settings, Path.cwd(), cache_folder())
        gold = objective_of([(1.0, "cross_entropy", {})])
        taught = Lesson(TextClassification(), found.train, found.validation, gold)
        origin = Origin(settings, weights, found.labels, ())
        how = TrainSettings.model_validate({**TEACHER, "steps": steps})
        return int(train_model(origin, taught, how, seed, places, f"{task.name}: MiniLM", "cpu")["steps"])

    work.once(f"{task.name}-teacher", make)
    return places[1]


def by_transformers(source: Path, target: Path) -> str:
    """Fuse a graph by onnxruntime's optimizer for BERT, and return what it found."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    how = {"model_type": "bert", "num_heads": HEADS, "hidden_size": WIDTH, "opt_level": 0}
    model = optimizer.optimize_model(str(source), optimization_options=FusionOptions("bert"), **how)
    model.save_model_to_file(str(target))
    return str({name: count for name, count in model.get_fused_operator_statistics().items() if count})


def by_onnxscript(source: Path, target: Path) -> str:
    """Fuse a graph by onnxscript's rules for ONNX Runtime, and return what they found."""
    import onnx_ir
    from onnxscript.rewriter import ort_fusions

    model, counts = ort_fusions.optimize_for_ort(onnx_ir.load(str(source)))
    onnx_ir.save(model, str(target))
    return str({name: count for name, count in counts.items() if count})


FUSED: dict[str, Callable[[Path, Path], str]] = {"transformers": by_transformers, "onnxscript": by_onnxscript}


def bundles(work: Work, name: str, model: Path, found: Any) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the bundles that are timed, and return them with what the fusions found."""
    from attar.stages.export import export

    folder, scratch = work.folder / f"{name}-bundles", work.folder / f"{name}-export"
    scratch.mkdir(exist_ok=True)
    made = {"float32": folder / "float32", "int8": folder / "int8"}
    chosen: dict[str, list[Any]] = {"float32": [], "int8": [("dynamic_int8", {})]}
    for kind, steps in chosen.items():
        if not (made[kind] / "bundle.json").is_file():
            export(model, KIND, steps, found, (scratch, made[kind]))
    said = {}
    for kind, fuse in FUSED.items():
        graph = scratch / f"{kind}.onnx"
        said[kind] = fuse(made["float32"] / "model.onnx", graph)
        made[kind] = other_graph(made["float32"], graph, folder / kind)
    return made, said


def int8(work: Work, task: Task, given: argparse.Namespace) -> dict[str, Any]:
    """Return times at 128 tokens and accuracies of a task's graphs."""
    from attar.meters.grid import GridSettings
    from attar.stages.measure import Contender, measure_files

    train, validation, test = (200, 40, 40) if given.quick else SIZES[task.name]
    found = read(task, (min(train, 5000), validation, test), given.seed)
    examples = found.test.take(np.arange(40)) if given.quick else found.test
    model = fine_tuned(work, task, found, 2 if given.quick else None, given.seed)
    made, said = bundles(work, task.name, model, found)
    contenders = [Contender(name, "bundle", folder) for name, folder in made.items()]
    grid = GridSettings(batch=(1,), length=(LENGTH,), rounds=given.rounds)
    timed = measure_files(contenders, KIND, examples, 10, 3, given.seed, grid)
    right = {name: timed[name]["scores"].argmax(axis=1) == examples.labels for name in made}
    return {
        "ms": {name: timed[name]["grid"][0]["p50"] for name in made},
        "accuracy": {name: float(values.mean()) for name, values in right.items()},
        "differs": {name: float(np.abs(timed[name]["scores"] - timed["float32"]["scores"]).max()) for name in made},
        "fused": said,
        "n": len(examples),
    }


def int8_figures(found: dict[str, Any]) -> dict[str, float]:
    """Return a task's figures: the speed-up over the fastest float32 graph that answers alike, and the points lost."""
    floats = {name: ms for name, ms in found["ms"].items() if name != "int8" and found["differs"][name] < 0.01}
    lost = 100 * (found["accuracy"]["float32"] - found["accuracy"]["int8"])
    return {
        "float32_ms": min(floats.values()),
        "float32_as_exported_ms": found["ms"]["float32"],
        "int8_ms": found["ms"]["int8"],
        "int8_speedup": round(min(floats.values()) / found["ms"]["int8"], 3),
        "float32_accuracy": round(found["accuracy"]["float32"], 5),
        "int8_accuracy": round(found["accuracy"]["int8"], 5),
        "int8_loss_points": round(lost, 3),
    }


def recipe(quick: bool, seed: int) -> dict[str, Any]:
    """Return the recipe of the chain."""
    data = {**REUTERS.source, "validation": 400}
    encoder = {"model": ENCODER, "sha256": ENCODER_SHA, "max_length": LENGTH}
    body: dict[str, Any] = {
        "task": KIND,
        "name": "small",
        "seed": seed,
        "data": data,
        "teacher": {**encoder, "train": TEACHER},
        "student": {"model": "teacher", "max_length": LENGTH},
        "distill": {
            "objective": [
                {"use": "forward_kl", "temperature": 2, "weight": 0.5},
                {"use": "cross_entropy", "weight": 0.5},
            ],
            **{"epochs": 1, "batch_size": 32, "learning_rate": 0.0001, "control": False},
        },
        "compress": {"steps": CHAIN},
        "measure": {"texts": 200, "agreement": 0.95},
    }
    if quick:
        body["data"] = {**data, "train": 200, "validation": 40, "test": 60}
        body["teacher"]["train"], body["distill"]["steps"] = {"steps": 2, "batch_size": 16}, 1
        short = {"steps": 2, "batch_size": 16}
        steps = [{**one, "recover": short} if isinstance(one, dict) and "recover" in one else one for one in CHAIN]
        body["compress"], body["measure"] = {"steps": steps}, {"texts": 8, "agreement": 0}
    return body


def chain(work: Work, given: argparse.Namespace) -> dict[str, Any]:
    """Run the recipe and return its figures."""
    import attar

    summary = attar.run(recipe(given.quick, given.seed), work.folder / "small").summary
    models = {model["name"]: model for model in summary["models"]}
    found = {
        name: {
            "accuracy": model["quality"]["value"],
            "mb": model.get("bytes", 0) / 1e6,
            "p50_ms": model.get("latency_ms", {}).get("p50", 0.0),
        }
        for name, model in models.items()
    }
    return {"models": found, "damage": summary["damage"], "n": summary["examples"]["test"]}


def chain_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return the chain's figures."""
    models = found["models"]
    teacher, small = models["teacher"], models["exported"]
    rows = {
        name: {key: round(value, 5) for key, value in models[name].items()}
        for name in ("teacher", "exported", "dense", "dense_2")
        if name in models
    }
    return {
        "small_mb": round(small["mb"], 3),
        "small_p50_ratio": round(teacher["p50_ms"] / small["p50_ms"], 2),
        "small_share_of_teacher": round(small["accuracy"] / teacher["accuracy"], 5),
        **rows,
    }


def table(parts: dict[str, dict[str, float]], found: dict[str, Any]) -> None:
    """Print the results for people."""
    print(f"{'int8':<10}{'float32 ms':>12}{'int8 ms':>10}{'faster':>9}{'points lost':>13}")
    for name, row in parts.items():
        print(
            f"{name:<10}{row['float32_ms']:>12.2f}{row['int8_ms']:>10.2f}{row['int8_speedup']:>8.2f}x"
            f"{row['int8_loss_points']:>13.2f}"
        )
    print(f"\n{'chain':<12}{'accuracy':>10}{'MB':>9}{'p50 ms':>9}")
    for name, row in found["models"].items():
        print(f"{name:<12}{row['accuracy']:>10.4f}{row['mb']:>9.2f}{row['p50_ms']:>9.2f}")
    print(f"\n{'step':<12}{'parameters':>12}{'before':>9}{'after':>9}{'recovered':>11}   (validation)")
    for row in found["damage"]:
        recovered = f"{row['recovered']['accuracy']:.4f}" if "recovered" in row else ""
        accuracies = f"{row['before']['accuracy']:>9.4f}{row['after']['accuracy']:>9.4f}"
        print(f"{row['step']:<12}{row['parameters']:>12,}{accuracies}{recovered:>11}")


def main() -> None:
    """Run the benchmark."""
    parser = base_parser(__doc__, "compress-encoder")
    parser.add_argument("--rounds", type=int, default=100, help="of the timed answers at 128 tokens")
    given = parser.parse_args()
    if given.quick:
        given.rounds = 5
    work = Work(given, "compress_encoder")
    timed = {task.name: work.once(f"int8-{task.name}", partial(int8, work, task, given)) for task in TASKS}
    small = work.once("chain", lambda: chain(work, given))
    parts = {name: int8_figures(found) for name, found in timed.items()}
    table(parts, small)
    figures = {
        "int8_speedup": min(part["int8_speedup"] for part in parts.values()),
        "int8_loss_points": max(part["int8_loss_points"] for part in parts.values()),
        **chain_figures(small),
        **{f"int8_{name}": part for name, part in parts.items()},
    }
    conditions = {
        "model": "all-MiniLM-L6-v2, fine-tuned on gold labels for 3 epochs",
        "int8_speedup": f"batch 1, {LENGTH} tokens, {given.rounds} rounds, processes taking turns; the worse of the "
        "two tasks; over the fastest of three float32 graphs in ONNX Runtime",
        "fused": {name: found["fused"] for name, found in timed.items()},
        "test texts": {name: found["n"] for name, found in timed.items()},
        "chain": str(CHAIN),
        "small_p50_ratio": "fine-tuned teacher in PyTorch float32 over the bundle, on the same R8 test texts, in turns",
        "dense": "fewer layers of the teacher, distilled for as many steps as the student and all its recoveries",
    }
    finish(work, figures, given, conditions)


TASKS = (REUTERS, REVIEWS)

if __name__ == "__main__":
    main()
