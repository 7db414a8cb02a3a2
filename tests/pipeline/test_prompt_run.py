"""Whole runs in which prompts are looked for: of a teacher that writes, of a student that answers by label words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.pipeline.in_process import untimed

from attar import api
from attar.errors import RecipeError
from attar.exporters.bundle import Bundle
from attar.pipeline import generation

Run = Callable[..., dict[str, Any]]
FAST = {"steps": 2, "batch_size": 4, "learning_rate": 0.003, "precision": "float32", "validations": 1}
WORDS = ("warm", "soft", "red", "blue", "long", "short", "thin", "fine")
SEARCH = {"search": ["bank", "demonstrations"], "block": 8, "generations": 1, "children": 2, "max_tokens": 32}


def _labels() -> dict[str, Any]:
    return {
        "task": "text-classification",
        "data": {"source": "labeled.csv", "text": "text", "label": "label", "train": 24, "validation": 20, "test": 10},
        "teacher": {"model": "model", "precision": "float32"},
        "student": {"model": "teacher", "layers": 1, "answers_by": "label_words", "max_length": 32},
        "prompt": {
            "teacher": {**SEARCH, "words": {"bad": "bad", "good": "good"}},
            "student": {"race": ["text", "calibrated", "soft", "prefix"], "length": 2, "train": FAST, "texts": 3},
        },
        "distill": FAST,
        "compress": ["dynamic_int8"],
        "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
    }


def _titles() -> dict[str, Any]:
    return {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "train": 10, "validation": 12, "test": 5},
        "teacher": {"model": "model", "precision": "float32", "max_length": 32},
        "student": {"model": "teacher", "layers": 1, "max_length": 32},
        "prompt": {"teacher": {"input": "dress", "target": "title", **SEARCH}, "max_new_tokens": 4},
        "distill": {**FAST, "objective": [{"use": "forward_kl", "temperature": 1}]},
        "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return a folder with a tiny language model and two tables."""
    home = tmp_path_factory.mktemp("prompts")
    shutil.copytree(llama_folder, home / "model")
    pairs = [(one, two) for one in WORDS for two in WORDS if one != two]
    rows = [f"a {one} and {two} dress that fits,{one} {two}" for one, two in pairs]
    (home / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    rows = [f"a {one} and {two} dress,{('bad', 'good')[place % 2]}" for place, (one, two) in enumerate(pairs)]
    (home / "labeled.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return home


@pytest.fixture
def run(home: Path, shared_cache: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a runner of recipes over the store of this file's runs."""
    untimed(monkeypatch)
    files = {name: {"peak_rss_bytes": 1} for name in ("teacher", "student", "exported")}
    monkeypatch.setattr(generation, "measure_files", lambda *given: files)

    def go(name: str, body: dict[str, Any], **changes: Any) -> dict[str, Any]:
        (home / f"{name}.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
        api.run(home / f"{name}.yaml", home / name, **changes)
        summary: dict[str, Any] = json.loads((home / name / "summary.json").read_text(encoding="utf-8"))
        return summary

    return go


def test_prompts_are_raced_on_the_bundle_and_the_best_is_in_it(home: Path, run: Run) -> None:
    summary = run("labels", _labels())
    told = summary["prompt"]["student"]
    assert {row["name"] for row in told["tried"]} == {"none", "text", "calibrated", "soft", "prefix"}
    assert all(row["n"] == 12 for row in told["tried"])
    assert told["why"]
    if not told["kept"]:
        assert told["name"] == "none"
    bundle = Bundle(home / "labels" / "bundle", 1)
    assert np.isfinite(bundle.scores(["a warm dress"])).all()
    assert [model["name"] for model in summary["models"]][-1] == "exported"
    assert (home / "labels" / "report.html").is_file()


def test_a_run_again_does_nothing_again(run: Run) -> None:
    first = run("labels", _labels())
    again = run("labels-too", _labels())
    assert again["prompt"] == first["prompt"]
    assert again["verdict"] == first["verdict"]


def test_without_gold_labels_the_teacher_says_which_prompt_is_better(run: Run) -> None:
    told = run("blind", _labels(), **{"data.gold": ["test"], "prompt.student.race": ["calibrated"]})["prompt"]
    assert told["student"]["criterion"] == "agreement of the exported bundle with the teacher on validation"
    assert "mutual information" in told["teacher"]["criterion"]


def test_a_student_learns_to_do_without_its_teachers_prompt(run: Run) -> None:
    told = {
        "prompt.teacher.instruction": "Judge the dress.",
        "prompt.teacher.search": "none",
        "prompt.student.race": [],
    }
    under = run("under", _labels(), **told, **{"distill.prompt_dropout": {"share": 1.0}})["curves"]["student"]
    without = run("without", _labels(), **told)["curves"]["student"]
    assert [point["loss"] for point in under] != [point["loss"] for point in without]


@pytest.mark.parametrize("body", [_labels, _titles], ids=["labels", "titles"])
def test_a_teacher_is_brought_nearer_to_its_student(run: Run, body: Callable[[], dict[str, Any]]) -> None:
    friendly = {"prompt": {"length": 2}, "train": FAST, "brief": 0.5}
    changes = {"distill.friendly": friendly, "prompt.student.race": []} if body is _labels else {}
    summary = run(f"near-{body.__name__.strip('_')}", body(), **{"distill.friendly": friendly, **changes})
    stages = [part["stage"] for part in summary["pipeline"]]
    assert stages.index("brief") < stages.index("friendly") < stages.index("student")
    assert "friendly" in next(part for part in summary["pipeline"] if part["stage"] == "student")["parents"]


def test_a_teacher_that_writes_finds_its_prompt_and_its_student_reads_the_recipes_own(home: Path, run: Run) -> None:
    summary = run("titles", _titles())
    teacher = summary["prompt"]["teacher"]
    assert "ROUGE-L" in teacher["criterion"]
    assert len(teacher["tried"]) > 3
    card = json.loads((home / "titles" / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    assert card["input"]["prompt"]["name"] == "recipe"
    assert summary["prompt"]["student"]["kept"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"student.answers_by": "head"}, "prompt.student.race"),
        ({"student.answers_by": "head", "prompt.student.race": ["soft"]}, "student.model"),
        ({"prompt.student.race": ["soft", "hard"]}, "prompt.student.race"),
        ({"prompt.student.template": "no place"}, "prompt.student"),
        ({"prompt.teacher.search": ["bank", "demonstration"]}, "prompt.teacher.search"),
        ({"prompt.teacher.search": [{"use": "phrases", "longes": 3}]}, "prompt.teacher.search"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_loaded(
    home: Path, shared_cache: None, changes: dict[str, Any], where: str
) -> None:
    (home / "wrong.yaml").write_text(yaml.safe_dump(_labels()), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        api.check(home / "wrong.yaml", **changes)
    assert any(where in mistake.where for mistake in caught.value.mistakes)


def test_a_student_with_a_head_cannot_write_titles_by_label_words(home: Path, shared_cache: None) -> None:
    body = _titles()
    body["student"]["answers_by"] = "label_words"
    (home / "wrong.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        api.check(home / "wrong.yaml")
    assert any(mistake.where == "student.answers_by" for mistake in caught.value.mistakes)


def test_a_writer_of_its_own_that_writes_nonsense_is_a_clean_answer(run: Run) -> None:
    search = {"prompt.teacher.search": ["bank", "instructions"], "prompt.student.race": []}
    summary = run("writer", _labels(), **search, **{"prompt.writer": {"model": "model"}})
    teacher = summary["prompt"]["teacher"]
    assert teacher["left_out"] == {}
    assert teacher["why"]
