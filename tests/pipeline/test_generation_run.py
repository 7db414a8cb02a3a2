"""Whole runs of a model that writes: from gold texts, from its teacher's, and from its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar import api
from attar.errors import RecipeError
from attar.exporters.writing_bundle import WritingBundle
from attar.pipeline import generation
from attar.pipeline.check import check
from attar.pipeline.load import load_recipe
from attar.sources import data as sources
from attar.store.journal import Journal

Home = Callable[..., dict[str, Any]]
WORDS = ("warm", "soft", "red", "blue", "long", "short")
GOLD = {"data", "weights", "teacher", "record", "control", "student", "compress", "export", "measure"}


def _body() -> dict[str, Any]:
    train = {"steps": 2, "batch_size": 4, "learning_rate": 0.003, "precision": "float32", "validations": 1}
    return {
        "task": "text-generation",
        "data": {
            "source": "pairs.csv",
            "text": "text",
            "target": "title",
            "train": 10,
            "validation": 3,
            "test": 5,
        },
        "teacher": {"model": "model", "precision": "float32", "train": {**train, "steps": 12}},
        "student": {"model": "teacher", "layers": 1},
        "prompt": {"teacher": {"template": "{text}\nTitle:", "chat": False}, "max_new_tokens": 6},
        "distill": {**train, "steps": None, "epochs": 1, "objective": [{"use": "forward_kl", "temperature": 1}]},
        "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
    }


def _unmeasured(patch: pytest.MonkeyPatch) -> None:
    """Do not measure speed and memory: that takes a fresh process for each model."""
    files = {name: {"peak_rss_bytes": 1} for name in ("teacher", "student", "exported")}
    patch.setattr(generation, "measure_files", lambda *given: files)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return a folder with a recipe, its table and its model, and the finished run ``gold`` with its store."""
    home = tmp_path_factory.mktemp("generation")
    shutil.copytree(llama_folder, home / "model")
    rows = [f"a {one} and {two} dress that fits,{one} {two}" for one in WORDS for two in WORDS if one != two]
    (home / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    (home / "recipe.yaml").write_text(yaml.safe_dump(_body()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(home / "cache"))
        _unmeasured(patch)
        api.run(home / "recipe.yaml", home / "gold")
    return home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a runner of the recipe with changes, over the store of all runs."""
    monkeypatch.setenv("ATTAR_CACHE", str(home / "cache"))
    _unmeasured(monkeypatch)

    def go(name: str, **changes: Any) -> dict[str, Any]:
        api.run(home / "recipe.yaml", home / name, **changes)
        summary: dict[str, Any] = json.loads((home / name / "summary.json").read_text(encoding="utf-8"))
        return summary

    return go


def _made(folder: Path) -> set[str]:
    """Return the stages that a run did not find in the store."""
    events = Journal(folder / "journal.jsonl").events("stage-done")
    return {event["stage"] for event in events if not event["reused"]}


def _steps(summary: dict[str, Any], name: str) -> Any:
    return summary["curves"][name][-1]["step"]


def test_a_run_on_gold_texts(home: Path, run: Home) -> None:
    summary = run("gold again")
    assert _made(home / "gold") == GOLD
    assert _made(home / "gold again") == set()
    assert summary["text"] == {"use": "gold", "on_policy": None}
    assert summary["control_learns_from"] == "gold labels"
    assert [model["name"] for model in summary["models"]] == ["teacher", "control", "student", "exported"]
    assert summary["record"]["codec"] == "topk"
    assert all(check["passed"] for check in summary["preflight"])


def test_a_run_on_the_teachers_texts(home: Path, run: Home) -> None:
    changes = {"distill.text": {"use": "teacher", "how": "sample", "samples": 4, "keep": 2}}
    summary = run("teacher", **changes)
    # the control learns from gold alone, so it is the one of the run on gold texts
    assert _made(home / "teacher") == {"write", "record", "student", "compress", "export", "measure"}
    text = summary["text"]
    assert (text["use"], text["how"], text["examples"]) == ("teacher", "sample", 10)
    assert 10 < text["texts"] <= 20
    assert text["rejected"] == 40 - text["texts"]
    assert text["score"]["name"] == "rouge_l"
    assert text["score"]["kept"] >= text["score"]["all"]
    assert _steps(summary, "student") == _steps(summary, "control") == 3  # of 10 gold texts, whatever was written
    assert [part["stage"] for part in summary["pipeline"]][:4] == ["data", "weights", "teacher", "write"]
    run("teacher again", **changes)
    assert _made(home / "teacher again") == set()
    written = sources.load(next((home / "cache" / "artifacts").glob("write-*")))
    gold = sources.load(next((home / "cache" / "artifacts").glob("data-*")))
    assert set(written.train.inputs) <= set(gold.train.inputs)
    assert written.train.targets != gold.train.targets
    assert (written.validation.targets, written.test.targets) == (gold.validation.targets, gold.test.targets)


def test_a_run_on_the_students_own_texts(home: Path, run: Home) -> None:
    changes = {"distill.on_policy": {"share": 0.5, "buffer": 4}}
    summary = run("own", **changes)
    assert _made(home / "own") == {"student", "compress", "export", "measure"}
    assert summary["text"]["on_policy"] == {"share": 0.5, "buffer": 4, "fresh": 0.5, "temperature": 1.0, "start": 0.0}
    assert summary["record"] is None
    assert "record" not in [part["stage"] for part in summary["pipeline"]]
    assert all(check["passed"] for check in summary["preflight"])
    assert (home / "own" / "report.html").is_file()
    run("own again", **changes)
    assert _made(home / "own again") == set()


def test_own_texts_beside_the_teachers(home: Path, run: Home) -> None:
    changes = {"distill.on_policy": {}, "distill.text": "teacher", "distill.objective": "reverse_kl"}
    summary = run("both", **changes)
    assert _made(home / "both") == {"write", "student", "compress", "export", "measure"}
    assert (summary["text"]["use"], summary["text"]["how"]) == ("teacher", "greedy")


def test_without_gold_the_control_learns_from_the_teachers_texts(home: Path, run: Home) -> None:
    changes = {"data.gold": ["test"], "distill.text": "teacher", "teacher.train": None}
    summary = run("no gold", **changes)
    assert summary["control_learns_from"] == "the teacher's texts"
    assert _made(home / "no gold") == (GOLD | {"write"}) - {"weights"}
    assert _steps(summary, "control") == _steps(summary, "student")
    assert summary["curves"]["student"][-1]["validation_loss"] > 0


@pytest.mark.real
def test_every_model_of_a_run_is_measured_in_a_process_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("measure-*"), dirs_exist_ok=True)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    summary = api.run(home / "recipe.yaml", tmp_path / "run").summary
    assert _made(tmp_path / "run") == {"measure"}
    assert all(model["latency_ms"]["p50"] > 0 for model in summary["models"])
    assert all(model["tokens_per_second"] > 0 for model in summary["models"])


def _keys(home: Path, **changes: Any) -> dict[str, str]:
    recipe, base = load_recipe(str(home / "recipe.yaml"), changes)
    return {stage.name: stage.key for stage in check(recipe, base).stages}


LATER = {"student", "compress", "export", "measure"}
TAUGHT = {"teacher", "control"}  # the control starts from the teacher's layers, as the student does


@pytest.mark.parametrize(
    ("before", "after", "stages"),
    [
        ({"distill.text": "teacher"}, {"distill.text": {"use": "teacher", "how": "beam"}}, {"write", "record"} | LATER),
        ({}, {"prompt.max_new_tokens": 7}, {"teacher", "record"} | TAUGHT | LATER),
        ({}, {"prompt.teacher.template": "{text}:"}, {"teacher", "record"} | TAUGHT | LATER),
        ({"distill.on_policy": {}}, {"distill.on_policy": {"share": 0.4}}, LATER),
        ({"distill.on_policy": {}}, {"distill.on_policy": {"buffer": 8}}, LATER),
        ({"distill.on_policy": {}}, {"distill.on_policy": {}, "teacher.precision": "bfloat16"}, LATER),
        ({"distill.on_policy": {}}, {"distill.on_policy": {}, "teacher.train": {"steps": 3}}, TAUGHT | LATER),
    ],
    ids=str,
)
def test_keys_change_with_the_settings(
    before: dict[str, Any], after: dict[str, Any], stages: set[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_CACHE", str(home / "cache"))
    first, second = _keys(home, **before), _keys(home, **after)
    assert set(first) == set(second)
    assert {name for name, key in first.items() if second[name] != key} == stages


def test_the_write_stage_has_a_forecast_that_grows_with_the_samples(home: Path) -> None:
    seconds = []
    for changes in ({"distill.text": "teacher"}, {"distill.text": {"use": "teacher", "how": "sample", "samples": 8}}):
        recipe, base = load_recipe(str(home / "recipe.yaml"), changes)
        planned = next(stage for stage in check(recipe, base).stages if stage.name == "write")
        seconds.append(planned.seconds)
    assert all(value is not None for value in seconds)
    assert seconds[0] <= seconds[1]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "where", "rule"),
    [
        ({"data.gold": ["test"], "teacher.train": None}, "distill.text", "must be teacher where data.gold"),
        ({"data.gold": ["train", "test"]}, "distill.text", "'validation': no text is known there"),
        ({"distill.text": {"how": "beam"}}, "distill.text.use", "must be teacher with keys of how it writes"),
        ({"distill.on_policy": {}, "distill.record": "topk"}, "distill.record", "the teacher answers live"),
        (
            {"distill.on_policy": {}, "distill.objective": "cross_entropy"},
            "distill.on_policy",
            "needs an objective that listens to the teacher",
        ),
        ({"distill.on_policy": {}, "distill.generations": 2}, "distill.on_policy", "one teacher and one student"),
        ({"prompt.teacher.search": "none"}, "prompt.teacher.search", "reads the recipe's own prompt"),
        ({"prompt.teacher.max_tokens": 99}, "prompt.teacher.max_tokens", "does nothing here"),
        ({"prompt.teacher.words": {"a": "b"}}, "prompt.teacher.words", "does nothing here"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], where: str, rule: str, home: Path) -> None:
    recipe, base = load_recipe(str(home / "recipe.yaml"), changes)
    with pytest.raises(RecipeError) as error:
        check(recipe, base)
    assert (where, True) in [(one.where, rule in one.message) for one in error.value.mistakes]


@pytest.mark.parametrize("key", ["text", "on_policy"])
def test_tasks_with_labels_have_no_texts_to_choose(key: str) -> None:
    recipe, base = load_recipe("digits", {f"distill.{key}": {"text": "teacher", "on_policy": {}}[key]})
    with pytest.raises(RecipeError, match="is for tasks that write; image-classification has labels"):
        check(recipe, base)


def test_every_objective_of_full_scores_fits_a_live_teacher(home: Path) -> None:
    for changes in ({"distill.objective": "dkd", "distill.on_policy": {}}, {"distill.objective": "dkd"}):
        recipe, base = load_recipe(str(home / "recipe.yaml"), changes)
        if recipe.distill.on_policy is None:
            with pytest.raises(RecipeError, match="dkd needs logits"):
                check(recipe, base)
        else:
            assert "student" in {stage.name for stage in check(recipe, base).stages}


def test_quantized_weights_ship_as_a_graph_that_writes(home: Path, run: Home) -> None:
    steps = [{"use": "weights", "bits": 4, "group": 16, "method": "gptq", "examples": 4}]
    summary = run("small", compress={"steps": steps}, export="onnx")
    models = {model["name"]: model for model in summary["models"]}
    assert list(models) == ["teacher", "control", "student", "compressed", "exported"]
    assert models["exported"]["bits_per_parameter"] < 16 < models["student"]["bits_per_parameter"]
    assert models["exported"]["perplexity"]["value"] == pytest.approx(models["compressed"]["perplexity"]["value"], 0.1)
    assert summary["damage"][0]["step"] == "weights"
    assert next(check for check in summary["checks"] if "bundle" in check["name"])["rule"] == "reported"
    assert len(WritingBundle(home / "small" / "bundle").write(["a warm and soft dress that fits"])) == 1


def test_a_cut_language_model_recovers_on_its_grid(home: Path, run: Home) -> None:
    recover = {"steps": 4, "validations": 2}
    steps = [
        {"use": "width", "mlp": 0.33, "round_to": 16, "importance": "magnitude", "repair": False, "recover": recover},
        {"use": "weights", "bits": 4, "group": 16, "method": "rtn", "recover": recover},
    ]
    summary = run("cut", compress={"steps": steps})
    assert [row["step"] for row in summary["damage"]] == ["width", "weights"]
    assert summary["damage"][0]["parameters"] == summary["damage"][1]["parameters"]
    assert all(row["recovered"]["loss"] <= row["after"]["loss"] for row in summary["damage"])
