"""Do what is special to tasks that write: the bundle, and the figures of quality."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.meters import flops, statistics, text
from attar.pipeline.names import compressed, of_kind
from attar.pipeline.quality import (
    OF_A_PROCESS,
    Run,
    mark_dominated,
    median_example,
    stored,
    student_over_control,
    title_of,
)
from attar.seeds import derive
from attar.stages import assets
from attar.stages.device import choose_precision, threads
from attar.stages.measure import Contender, measure_files
from attar.students import folder as students
from attar.tasks.writing import write
from attar.teachers.language_model import LanguageModelTeacher


@dataclass(frozen=True)
class Written:
    """Hold what a model did with the test split.

    Args:
        texts: what it wrote greedily.
        rouge: ``(examples,)`` ROUGE-L of each.
        exact: ``(examples,)`` 1 where it wrote the gold words.
        nll: ``(examples,)`` summed negative log-likelihood of the gold tokens, in nats.
        tokens: ``(examples,)`` gold tokens, the end included.
        speed: tokens written a second, many texts at once, prompts included.
    """

    texts: list[str]
    rouge: np.ndarray
    exact: np.ndarray
    nll: np.ndarray
    tokens: np.ndarray
    speed: float


def read_and_write(model: Model, task: Any, test: Examples, precision: Any) -> Written:
    """Let a model write the test split's texts, and read how likely it holds the gold ones."""
    gold = list(test.targets or ())
    model.module.to(precision)
    begin = time.perf_counter()
    texts = [written[0] for written in write(model, [str(one) for one in test.inputs])]
    seconds = time.perf_counter() - begin
    count = sum(len(model.processor(one, add_special_tokens=False).input_ids) + 1 for one in texts)
    nll, tokens = LanguageModelTeacher(model, task, "").likelihood(test)
    rouge = np.array([text.rouge_l(one, other) for one, other in zip(texts, gold, strict=True)])
    exact = np.array([text.exact_match(one, other) for one, other in zip(texts, gold, strict=True)], np.float64)
    return Written(texts, rouge, exact, nll, tokens, count / seconds)


def read_and_write_bundle(folder: Path, test: Examples) -> Written:
    """Let an exported bundle write the test split's texts, and read how likely it holds the gold ones.

    Args:
        folder: a bundle whose graph onnxruntime runs.
        test: with target texts.
    """
    from attar.exporters.writing_bundle import WritingBundle

    gold, bundle = list(test.targets or ()), WritingBundle(folder, threads())
    begin = time.perf_counter()
    texts = bundle.write([str(one) for one in test.inputs])
    seconds = time.perf_counter() - begin
    said = [bundle.log_likelihood(str(one), target) for one, target in zip(test.inputs, gold, strict=True)]
    rouge = np.array([text.rouge_l(one, other) for one, other in zip(texts, gold, strict=True)])
    exact = np.array([text.exact_match(one, other) for one, other in zip(texts, gold, strict=True)], np.float64)
    nll = np.array([-one.sum() for one in said], np.float64)
    tokens = np.array([len(one) for one in said], np.float64)
    return Written(texts, rouge, exact, nll, tokens, sum(len(bundle.target_tokens(one)) for one in texts) / seconds)


def measure_all(run: Run) -> dict[str, Any]:
    """Measure every model of a run that writes.

    Returns:
        ``models``, ``verdict``, ``checks``, ``own_prompt`` and ``samples`` as `summary.json` shows them.

    Raises:
        AttarError: the test split has examples without a target text, or the bundle writes otherwise than the student.
    """
    if run.test.targets is None or "" in run.test.targets:
        raise AttarError(
            "The test split has examples without a target text; quality is measured on it. Name data.target."
        )
    assistants = tuple((name, name) for name in of_kind("assistant", run.inputs))
    stages = (*STAGES[:1], *assistants, *STAGES[1:])
    if run.recipe.compress.on_model:
        stages = (*stages[:-1], ("compressed", compressed(run.inputs)), stages[-1])
    folders = {name: run.inputs[stage].folder for name, stage in stages if stage in run.inputs}
    graph = run.recipe.export.to == "onnx"
    contenders = [
        Contender("exported", "writing_bundle", folders[name])
        if graph and name == "exported"
        else Contender(name, "writer", folders[name], {"precision": precision_of(run, name)})
        for name in ("teacher", "student", "compressed", "exported")
        if name in folders
    ]
    measure = run.recipe.measure
    files = measure_files(contenders, run.recipe.task, run.test, measure.texts, measure.warmup, run.recipe.seed)
    task = assets.task(run.recipe.task)
    written: dict[str, Written] = {}
    models = []
    size: dict[str, Any] = {}
    for name, folder in folders.items():
        if graph and name == "exported":  # last, so the size before it is of the model that it was made from
            written[name] = read_and_write_bundle(folder, run.test)
            size = {**size, **stored(folder, size["parameters"])}
            models.append(_row(run, name, written, size, files))
            continue
        model = students.load(folder)
        size = _size(run, model, folder)
        written[name] = read_and_write(model, task, run.test, _dtype(precision_of(run, name)))
        models.append(_row(run, name, written, size, files))
    return {
        "models": mark_dominated(models),
        "verdict": _verdict(run, written),
        "checks": _checks(run, written),
        "own_prompt": None,
        "samples": _samples(run, written),
    }


STAGES = (("teacher", "teacher"), ("control", "control"), ("student", "student"), ("exported", "export"))
SAMPLES = 8
"""Test texts whose completions the summary shows."""


def precision_of(run: Run, name: str) -> str:
    """Return the precision a model is measured in: what the recipe's ``auto`` means on this machine, for all alike."""
    import torch

    wanted = run.recipe.teacher.precision
    return str(choose_precision(wanted, torch.device("cpu"))).removeprefix("torch.")


def _dtype(precision: str) -> Any:
    import torch

    return getattr(torch, precision)


def _size(run: Run, model: Model, folder: Path) -> dict[str, Any]:
    task = assets.task(run.recipe.task)
    example = median_example(run)
    batch = task.collate(model, example)
    head = 2 * model.module.get_output_embeddings().weight.numel() * len(batch.targets)  # type: ignore[operator]
    return {
        "parameters": flops.count_parameters(model.module),
        "flops": flops.count_flops(lambda: task.rows(model, batch)) + head,
        **stored(folder, None, model),
    }


def _row(
    run: Run, name: str, written: Mapping[str, Written], size: Mapping[str, Any], files: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    own = written[name]
    timed = dict(files.get(name, {}))
    if name == "control":  # the student's network: timed once, with the student
        timed = {**files["student"], "same_network_as": "student"}
        for own_alone in OF_A_PROCESS:
            timed.pop(own_alone, None)
    timed.pop("scores", None)
    teacher = written["teacher"].texts
    loss = statistics.bootstrap_ratio(
        own.nll, own.tokens, derive(run.recipe.seed, "bootstrap", "perplexity"), run.recipe.measure.resamples
    )
    return {
        "name": name,
        "title": title_of(run, name),
        "quality": run.interval(own.rouge, "quality").to_json(),
        "perplexity": {**loss.exponent().to_json(), "tokens": int(own.tokens.sum())},
        "exact_match": run.interval(own.exact, "exact").to_json(),
        "agreement": round(float(np.mean([a == b for a, b in zip(own.texts, teacher, strict=True)])), 6),
        "tokens_per_second": round(own.speed, 2),
        **size,
        **timed,
    }


def _verdict(run: Run, written: Mapping[str, Written]) -> dict[str, Any]:
    if "control" not in written:
        return {"claim": "student over control", "result": "INCONCLUSIVE", "why": "the recipe trains no control"}
    student, control = written["student"], written["control"]
    return {
        **student_over_control(run, student.rouge - control.rouge),
        "metric": "rouge_l",
        "perplexity": _loss_verdict(run, student, control),
        "gap_recovered": {
            "rouge_l": _recovered(*(float(written[name].rouge.mean()) for name in ("teacher", "control", "student"))),
            # losses a token of different tokenizers have different units
            "log_perplexity": _recovered(*(_loss(written[name]) for name in ("teacher", "control", "student")))
            if written["teacher"].tokens.sum() == student.tokens.sum()
            else None,
        },
    }


def _loss(own: Written) -> float:
    return float(own.nll.sum() / own.tokens.sum())


def _loss_verdict(run: Run, student: Written, control: Written) -> dict[str, Any]:
    """Judge the mean log-likelihood of a gold token: how much better the student's is, in nats."""
    seed = derive(run.recipe.seed, "bootstrap", "loss")
    gain = statistics.bootstrap_ratio(control.nll - student.nll, student.tokens, seed, run.recipe.measure.resamples)
    return {"result": statistics.verdict(gain), "unit": "nats a token", **gain.to_json()}


def _recovered(teacher: float, control: float, student: float) -> float | None:
    """Return the share of the way from control to teacher; None where the two are alike."""
    gap = teacher - control
    return None if abs(gap) < 1e-9 else round((student - control) / gap, 4)


def _checks(run: Run, written: Mapping[str, Written]) -> list[dict[str, Any]]:
    least = run.recipe.measure.agreement
    ours = written["exported"].texts
    theirs = written["compressed" if "compressed" in written else "student"].texts
    agreed = float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))
    name = "the bundle writes what the PyTorch model writes"
    if run.inputs["export"].card["precision"] != "float32":  # rounded products choose another word here and there
        return [{"name": name, "value": agreed, "rule": "reported", "passed": True}]
    if agreed < least:
        raise AttarError(
            f"The bundle writes what the PyTorch model writes for {agreed:.1%} of the test texts; the rule is "
            f"{least:.1%} (measure.agreement). Lower the rule if you accept the loss."
        )
    return [{"name": name, "value": agreed, "rule": f">= {least}", "passed": True}]


def _samples(run: Run, written: Mapping[str, Written]) -> list[dict[str, str]]:
    gold = list(run.test.targets or ())
    return [
        {"input": str(run.test.inputs[i]), "gold": gold[i], **{name: own.texts[i] for name, own in written.items()}}
        for i in range(min(SAMPLES, len(run.test)))
    ]
