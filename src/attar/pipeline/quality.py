"""Put a run's figures together: quality with intervals, sizes, operations, latency, checks, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.meters import flops, statistics
from attar.meters import sizes as sizes_of
from attar.meters.frontier import dominated
from attar.pipeline.names import compressed, of_kind, parted
from attar.pipeline.recipe import Recipe
from attar.pipeline.student_prompts import exported_model
from attar.pipeline.target import cuts, steps_of
from attar.seeds import derive
from attar.stages import assets, tune
from attar.stages.measure import Contender, measure_files
from attar.store.artifacts import Artifact
from attar.store.files import folder_bytes, read_json
from attar.students import folder as students
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.recorded import RecordedTeacher

Scores = dict[str, np.ndarray]
OF_A_PROCESS = ("peak_rss_bytes", "loaded_rss_bytes", "load_seconds", "against", "grid")
"""What was measured of one process, and is not told of a model that stands in for another."""


@dataclass(frozen=True)
class Run:
    """Hold what the figures of a run are made from.

    Args:
        recipe: the recipe.
        data: its data set.
        inputs: stage name -> artifact.
    """

    recipe: Recipe
    data: DataSet
    inputs: Mapping[str, Artifact]

    @property
    def test(self) -> Examples:
        """Return the test split, labels and all: measuring is what it is for."""
        return self.data.test

    def recorded(self) -> RecordedTeacher:
        """Return the recorded teacher."""
        return RecordedTeacher(self.inputs["record"].folder / "answers", self.inputs["record"].key)

    def interval(self, values: np.ndarray, name: str) -> statistics.Interval:
        """Return the mean of per-example values with its bootstrap interval."""
        return statistics.bootstrap_mean(
            values, derive(self.recipe.seed, "bootstrap", name), self.recipe.measure.resamples
        )


def measure_all(run: Run) -> dict[str, Any]:
    """Measure every model of a run.

    Returns:
        ``models``, ``verdict``, ``checks`` and ``own_prompt`` as `summary.json` shows them.

    Raises:
        AttarError: the test split has no gold labels, or the exported model does not agree with the PyTorch one.
    """
    recipe, inputs = run.recipe, run.inputs
    if (run.test.labels < 0).any():
        raise AttarError(
            "The test split has examples without a gold label; quality is measured on gold labels. Name data.label."
        )
    asked = recipe.measure
    files = measure_files(_contenders(run), recipe.task, run.test, asked.texts, asked.warmup, recipe.seed, asked.grid)
    scores: Scores = {"teacher": run.recorded().answer(run.test).dense().numpy()}
    sizes: dict[str, dict[str, Any]] = {"teacher": _teacher_size(run)}
    assistants = [(name, name) for name in of_kind("assistant", inputs)]
    for name, stage in (
        *assistants,
        ("control", "control"),
        ("student", "student"),
        ("compressed", compressed(inputs)),
    ):
        if stage in inputs:
            folder = exported_model(inputs) if name == "compressed" else inputs[stage].folder
            model = students.load(folder)
            scores[name] = ClassifierTeacher(model, assets.task(recipe.task), "").answer(run.test).dense().numpy()
            sizes[name] = _size(run, model, folder)
    scores["exported"] = files["exported"].pop("scores")
    sizes["exported"] = {**sizes["compressed"], **stored(inputs["export"].folder, sizes["compressed"]["parameters"])}
    for name, folder in dense_folders(run).items():
        scores[name] = files[name].pop("scores")
        sizes[name] = _counted(run, students.load(folder / "model"))
        sizes[name] |= stored(folder / "bundle", sizes[name]["parameters"])
    models = [_row(run, name, scores, sizes[name], files) for name in scores]
    return {
        "models": mark_dominated(models),
        "beside_dense": _beside_dense(run, scores),
        "verdict": _verdict(run, scores),
        "checks": _checks(run, scores),
        "own_prompt": _own_prompt(run),
    }


def own_bytes(folder: Path) -> int:
    """Return the bytes of an artifact's files without attar's card."""
    return folder_bytes(folder) - (folder / "artifact.json").stat().st_size


def _contenders(run: Run) -> list[Contender]:
    student = Contender("student", "student", run.inputs["student"].folder)
    dense = [Contender(name, "bundle", folder / "bundle") for name, folder in dense_folders(run).items()]
    exported = Contender("exported", "bundle", run.inputs["export"].folder)
    cut = steps_of(run.recipe, run.inputs, "model")
    own = [Contender("compressed", "student", exported_model(run.inputs))] if any(map(cuts, cut)) else []
    return [*_teacher_contenders(run), student, *own, exported, *dense]


def _teacher_contenders(run: Run) -> list[Contender]:
    if run.recipe.served:
        return []
    if not run.recipe.prompted:
        folders = [run.inputs[name].folder for name in of_kind("teacher", run.inputs)]
        kind = "student" if len(folders) == 1 else "ensemble"
        together = {} if len(folders) == 1 else {"folders": [str(folder) for folder in folders]}
        return [Contender("teacher", kind, folders[0], together)]
    tuned = tune.load(run.inputs["prompt"].folder)
    facts = {
        "prompt": tuned.prompt.to_json(),
        "precision": run.inputs["record"].card["precision"],
        "max_tokens": run.recipe.prompt.teacher.max_tokens,
    }
    return [Contender("teacher", "prompt", run.inputs["weights"].folder, facts)]


def dense_folders(run: Run) -> dict[str, Path]:
    """Return name -> folder of the dense models that stand beside the compressed one; none where none was trained."""
    if "dense" not in run.inputs:
        return {}
    made = run.inputs["dense"]
    return {row["name"]: made.folder / row["name"] for row in made.card["rows"]}


def mark_dominated(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each with the names of those that beat it in quality, bytes and milliseconds together."""
    shipped = {
        row["name"]: (row["quality"]["value"], row["bytes"], row["latency_ms"]["p50"])
        for row in models
        if "latency_ms" in row and row.get("bytes") and "same_network_as" not in row
    }
    found = dominated(shipped)
    return [{**row, "dominated_by": found[row["name"]]} if row["name"] in found else row for row in models]


def _beside_dense(run: Run, scores: Scores) -> list[dict[str, Any]]:
    """Return the verdict on the exported model against each dense one, over the same test examples."""
    if "dense" not in run.inputs:
        return []
    gold, rows = run.test.labels, []
    right = {name: (own.argmax(axis=-1) == gold).astype(np.float64) for name, own in scores.items()}
    for row in run.inputs["dense"].card["rows"]:
        gain = run.interval(right["exported"] - right[row["name"]], row["name"])
        claim = f"exported over dense at {row['at']}"
        rows.append({"name": row["name"], "at": row["at"], "claim": claim, "result": statistics.verdict(gain)})
        rows[-1] |= {
            "difference": gain.to_json()["value"],
            "low": gain.to_json()["low"],
            "high": gain.to_json()["high"],
        }
    return rows


def _row(
    run: Run, name: str, scores: Scores, size: Mapping[str, Any], files: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    own = scores[name]
    gold = run.test.labels
    right = (own.argmax(axis=-1) == gold).astype(np.float64)
    timed = dict(files.get(name, {}))
    if name in ("control", "compressed") and name not in files:  # the student's layers: timed once, with the student
        timed = {**files["student"], "same_network_as": "student"}
        for own_alone in OF_A_PROCESS:
            timed.pop(own_alone, None)
    timed.pop("scores", None)
    return {
        "name": name,
        "title": title_of(run, name),
        "quality": run.interval(right, "quality").to_json(),
        "ece": statistics.expected_calibration_error(statistics.softmax(own), gold),
        "agreement": round(statistics.agreement(own, scores["teacher"]), 6),
        "confusion": statistics.confusion(own, gold),
        **size,
        **timed,
    }


def title_of(run: Run, name: str) -> str:
    """Return what a model is, in a few words."""
    recipe = run.recipe
    if recipe.teacher.endpoint is not None and name == "teacher":
        return f"{recipe.teacher.endpoint.model}, behind a server"
    if name == "teacher":
        kind = "prompted" if recipe.prompted else "trained" if recipe.teacher.train else "as it came"
        count = f"{recipe.teacher.members} × " if recipe.teacher.members > 1 else ""
        return f"{count}{_short(recipe.teacher)}, {kind}"
    if parted(name)[0] == "assistant":
        place = parted(name)[1]
        born_again = place - len(recipe.assistant)
        role = f"generation {born_again} of the student" if born_again > 0 else "assistant"
        return f"{_short(recipe.assistants[place - 1])}, {role}"
    if parted(name)[0] == "dense":
        row = next(row for row in run.inputs["dense"].card["rows"] if row["name"] == name)
        return f"{_short(recipe.student)} of {row['words']}, distilled, not cut: {row['at']}"
    layers = _layers(run)
    steps = (
        " + ".join(step.use for at in ("model", "export") for step in steps_of(recipe, run.inputs, at))
        or "no compression"
    )
    what = {
        "control": "the same student, without the teacher",
        "student": f"{_short(recipe.student)}{layers}, distilled",
        "compressed": "the student after the steps on the model",
        "exported": f"the bundle ({steps})",
    }
    return what[name]


def _layers(run: Run) -> str:
    """Return which layers the student keeps, in words; empty for all."""
    settings = run.recipe.student
    if settings.by_damage is not None:
        return f", layers {', '.join(str(i) for i in run.inputs['student'].card['layers']['kept'])} by damage"
    return "" if settings.layers is None else f", layers {settings.layers}"


def _short(settings: Any) -> str:
    if settings.build is not None:
        return f"{settings.build.net} of widths {'-'.join(str(width) for width in settings.build.widths)}"
    place, _, inside = str(settings.model).rstrip("/").partition("#")
    last = (inside or place).removesuffix(".gguf").rpartition("/")[2]
    if inside and last in ("model", "weights"):  # a folder's name that says nothing; the package's does
        return place.rpartition(":")[2].partition("==")[0]
    return last or place


def _size(run: Run, model: Model, folder: Path) -> dict[str, Any]:
    return {**_counted(run, model), **stored(folder, None, model)}


def stored(folder: Path, parameters: int | None, model: Model | None = None) -> dict[str, Any]:
    """Return a folder's bytes, and the bits that a parameter takes in it."""
    found = sizes_of.of_folder(folder, model, parameters)
    return {name: found[name] for name in ("bytes", "bits_per_parameter", "nonzero") if name in found}


def _counted(run: Run, model: Model) -> dict[str, Any]:
    task = assets.task(run.recipe.task)
    batch = task.collate(model, median_example(run))
    return {
        "parameters": flops.count_parameters(model.module),
        "flops": flops.count_flops(lambda: task.rows(model, batch)),
    }


def median_example(run: Run) -> Examples:
    """Return the test example of median length, which operations are counted on."""
    lengths = np.array([len(one) for one in run.test.inputs])
    return run.test.take(np.argsort(lengths, kind="stable")[len(lengths) // 2 : len(lengths) // 2 + 1])


def _teacher_size(run: Run) -> dict[str, Any]:
    if run.recipe.served:
        return {}
    if not run.recipe.prompted:
        folders = [run.inputs[name].folder for name in of_kind("teacher", run.inputs)]
        sizes = [_size(run, students.load(folder), folder) for folder in folders]
        if len(sizes) == 1:
            return sizes[0]
        return {key: sum(size[key] for size in sizes) for key in ("parameters", "flops", "bytes")}
    import torch

    from attar.core.prompt import encode
    from attar.students.causal import language_model

    folder = run.inputs["weights"].folder
    model, tokenizer = language_model(folder, torch.bfloat16)
    prompt = tune.load(run.inputs["prompt"].folder).prompt
    ids = torch.tensor([encode(tokenizer, prompt, str(median_example(run).inputs[0]))])
    counted = flops.count_flops(lambda: model.base_model(input_ids=ids, use_cache=False))
    head = 2 * model.get_output_embeddings().weight.numel()
    return {
        "parameters": flops.count_parameters(model),
        "flops": counted + head,
        "bytes": own_bytes(folder),
    }


def _verdict(run: Run, scores: Scores) -> dict[str, Any]:
    if "control" not in scores:
        return {"claim": "student over control", "result": "INCONCLUSIVE", "why": "the recipe trains no control"}
    gold = run.test.labels
    right = {name: (scores[name].argmax(axis=-1) == gold).astype(np.float64) for name in ("student", "control")}
    return student_over_control(run, right["student"] - right["control"])


def student_over_control(run: Run, gains: np.ndarray) -> dict[str, Any]:
    """Return the verdict on the gains of student over control ``(examples,)``, with its interval and method."""
    difference = run.interval(gains, "verdict")
    figures = difference.to_json()
    return {
        "claim": "student over control",
        "result": statistics.verdict(difference),
        "difference": figures["value"],
        "low": figures["low"],
        "high": figures["high"],
        "n": figures["n"],
        "method": f"paired bootstrap over {difference.n} test examples, {run.recipe.measure.resamples} resamples, "
        "95 % interval",
    }


def _checks(run: Run, scores: Scores) -> list[dict[str, Any]]:
    least = run.recipe.measure.agreement
    agreed = statistics.agreement(scores["exported"], scores["compressed"])
    trimmed = statistics.agreement(scores["compressed"], scores["student"])
    if agreed < least:
        raise AttarError(
            f"The exported model agrees with the PyTorch model on {agreed:.1%} of the test examples; the rule is "
            f"{least:.1%} (measure.agreement). Drop a compression step, or lower the rule if you accept the loss."
        )
    return [
        {"name": "exported agrees with the PyTorch model", "value": agreed, "rule": f">= {least}", "passed": True},
        {"name": "compressed agrees with the student", "value": trimmed, "rule": "reported", "passed": True},
    ]


def _own_prompt(run: Run) -> dict[str, Any] | None:
    path = run.inputs["record"].folder / "own_prompt.json"
    if not path.is_file():
        return None
    body = read_json(path)
    labels = dict(zip(run.test.keys.tolist(), run.test.labels.tolist(), strict=True))
    gold = np.array([labels[key] for key in body["keys"]])
    right = (np.array(body["scores"]).argmax(axis=-1) == gold).astype(np.float64)
    return run.interval(right, "own prompt").to_json()
