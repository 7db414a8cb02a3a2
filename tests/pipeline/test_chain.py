"""Members, assistants, generations, the moving average and layers by damage: what learns from what, in tiny runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.pipeline.in_process import made

from attar import api
from attar.errors import AttarError, RecipeError
from attar.pipeline.check import check
from attar.pipeline.graph import build
from attar.pipeline.load import load_recipe
from attar.pipeline.members import accuracy
from attar.pipeline.recipe import Recipe
from attar.sources import data as sources
from attar.students import folder
from attar.tasks.image_classification import ImageClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.recorded import RecordedTeacher

pytestmark = pytest.mark.usefixtures("shared_cache")

TRAIN = {"steps": 12, "learning_rate": 0.01, "checkpoint_seconds": 0, "precision": "float32"}
RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 200, "validation": 40, "test": 40},
    "teacher": {"build": {"net": "mlp", "widths": [12]}, "train": TRAIN, "precision": "float32"},
    "student": {"build": {"net": "mlp", "widths": [4]}},
    "distill": TRAIN,
    "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
}
BETWEEN = {"build": {"net": "mlp", "widths": [8]}}


def _body(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe with some keys of its sections changed."""
    body = dict(RECIPE)
    for name, change in changes.items():
        body[name] = {**body.get(name, {}), **change}
    return body


def _keys(**changes: Mapping[str, Any]) -> dict[str, str]:
    recipe = Recipe.model_validate(_body(**changes))
    return {stage.name: stage.key for stage in check(recipe, Path()).stages}


def _changed(**changes: Mapping[str, Any]) -> set[str]:
    """Return the stages of the plain recipe that a change makes anew."""
    before, after = _keys(), _keys(**changes)
    return {name for name in before if after[name] != before[name]}


def _row(summary: Any, name: str) -> Any:
    return next(model for model in summary["models"] if model["name"] == name)


LATER = {"student", "compress", "export", "measure"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"teacher": {"members": 2}}, {"record", "control", *LATER}),
        ({"assistant": BETWEEN}, LATER),
        ({"distill": {"generations": 2}}, LATER),
        ({"distill": {"ema": {}}}, LATER),
    ],
    ids=str,
)
def test_what_is_not_touched_keeps_its_key(change: dict[str, Any], stages: set[str]) -> None:
    assert _changed(**change) == stages


@pytest.mark.parametrize(
    ("first", "second", "stages"),
    [
        ({"teacher": {"members": 2}}, {"teacher": {"members": 2, "combine": "per_row"}}, {"record"}),
        ({"distill": {"ema": {}}}, {"distill": {"ema": {"decay": 0.9}}}, {"student"}),
        (
            {"assistant": BETWEEN},
            {"assistant": {"build": {"widths": [7]}}},
            {"assistant", "record_assistant", "student"},
        ),
    ],
    ids=str,
)
def test_a_key_changes_with_its_settings(first: Any, second: Any, stages: set[str]) -> None:
    one, two = _keys(**first), _keys(**second)
    changed = {name for name in one if one[name] != two[name]}
    assert stages <= changed
    assert not changed & ({"data", "teacher", "teacher_2", "record"} - stages)


def test_a_chain_goes_from_large_to_small_and_then_through_the_generations() -> None:
    body = {**_body(distill={"generations": 2}), "assistant": [BETWEEN, {"build": {"widths": [6]}}]}
    stages = build(Recipe.model_validate(body), Path())
    assert list(stages)[3:] == [
        *("control", "assistant", "record_assistant", "assistant_2", "record_assistant_2", "assistant_3"),
        *("record_assistant_3", "student", "compress", "export", "measure"),
    ]
    assert stages["control"].parents == ("data", "record")
    assert stages["assistant"].parents == ("data", "record")
    assert stages["assistant_2"].parents == ("data", "record", "record_assistant")
    assert stages["assistant_3"].title == "Distill the student's generation 1"
    assert stages["student"].parents == ("data", "record", "record_assistant_3")
    assert {"assistant", "assistant_2", "assistant_3"} <= set(stages["measure"].parents)


@pytest.mark.parametrize("combine", ["mean", "weighted"])
def test_the_record_of_members_is_what_they_say_together(combine: str, tmp_path: Path) -> None:
    done = made("record", tmp_path, _body(teacher={"members": 2, "combine": combine}))
    test = sources.load(done["data"].folder).test
    shares = []
    for name in ("teacher", "teacher_2"):
        model = folder.load(done[name].folder)
        said = ClassifierTeacher(model, ImageClassification(), "").answer(test).dense().double()
        shares.append(said.softmax(dim=1).numpy())
    own = [1.0, 1.0] if combine == "mean" else [accuracy(done[name].card) for name in ("teacher", "teacher_2")]
    wanted = (own[0] * shares[0] + own[1] * shares[1]) / sum(own)
    kept = RecordedTeacher(done["record"].folder / "answers", "").answer(test)
    assert np.abs(kept.dense().double().softmax(dim=1).numpy() - wanted).max() < 2e-3
    assert np.abs(shares[0] - shares[1]).max() > 0.02  # another seed, another member


def test_a_student_listens_to_the_last_assistant_and_a_control_to_none(tmp_path: Path) -> None:
    plain = made("student", tmp_path, _body())
    helped = made("student", tmp_path, _body(assistant=BETWEEN))
    assert helped["control"] == plain["control"]
    assert helped["record_assistant"].card["rows"] == 280
    assert helped["student"].card["history"] != plain["student"].card["history"]
    test = sources.load(helped["data"].folder).test
    model = folder.load(helped["assistant"].folder)
    said = ClassifierTeacher(model, ImageClassification(), "").answer(test).dense().softmax(dim=1)
    kept = RecordedTeacher(helped["record_assistant"].folder / "answers", "").answer(test).dense().softmax(dim=1)
    assert float((said - kept).abs().max()) < 2e-3


def test_a_generation_starts_from_a_seed_of_its_own(tmp_path: Path) -> None:
    plain = made("student", tmp_path, _body())
    born = made("student", tmp_path, _body(distill={"generations": 2}))
    histories = [born["assistant"].card["history"], born["student"].card["history"], plain["student"].card["history"]]
    assert len({json.dumps(history) for history in histories}) == 3


def test_the_moving_average_changes_the_student_alone(tmp_path: Path) -> None:
    plain = made("student", tmp_path, _body())
    ema = made("student", tmp_path, _body(distill={"ema": {"decay": 0.9, "weight": 2.0}}))
    assert ema["control"] == plain["control"]
    assert ema["student"].card["history"] != plain["student"].card["history"]
    sizes = [(made["student"].folder / "model.safetensors").stat().st_size for made in (plain, ema)]
    assert sizes[0] == sizes[1]  # the average is not saved with it


def test_student_and_control_start_from_the_same_layers_by_damage(tmp_path: Path, bert_folder: Path) -> None:
    rows = [f"{('fine', 'bad')[i % 2]} thing number {i},{('good', 'bad')[i % 2]}" for i in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    body = {
        "task": "text-classification",
        "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 10, "test": 20},
        "teacher": {"model": str(bert_folder), "train": {"steps": 2}},
        "student": {"model": "teacher", "layers": {"count": 1, "by": "damage", "texts": 5}},
        "distill": {"steps": 2},
    }
    done = made("student", tmp_path, body)
    found = done["student"].card["layers"]
    assert found == done["control"].card["layers"]
    assert (found["measure"], found["texts"], len(found["damage"]), len(found["kept"])) == ("kl", 5, 2, 1)
    assert len(folder.load(done["student"].folder).module.bert.encoder.layer) == 1  # type: ignore[union-attr]


def test_a_model_that_writes_learns_from_an_assistant_and_its_own_generation(
    tmp_path: Path, llama_folder: Path
) -> None:
    rows = [f"a fine thing number {i},fine thing {i}" for i in range(24)]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    train = {"steps": 2, "batch_size": 4, "precision": "float32"}
    body = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 4, "test": 4},
        "teacher": {"model": str(llama_folder), "train": train},
        "assistant": {"model": "teacher"},
        "student": {"model": "teacher", "layers": {"count": 1, "texts": 3}},
        "distill": {**train, "generations": 2, "record": {"use": "topk", "k": 8}},
        "prompt": {"teacher": {"template": "Text: {text}\nTitle:"}, "max_new_tokens": 8},
    }
    done = made("student", tmp_path, body)
    assert list(done)[-5:] == ["assistant", "record_assistant", "assistant_2", "record_assistant_2", "student"]
    found = [done[name].card["layers"] for name in ("control", "assistant_2", "student")]
    assert found[0] == found[1] == found[2]
    assert found[0]["measure"] == "kl"
    assert done["record_assistant_2"].card["rows"] == done["record"].card["rows"]


def test_an_assistant_of_another_tokenizer_is_refused(tmp_path: Path, llama_folder: Path, tokenizer: Any) -> None:
    rows = [f"a fine thing number {i},fine thing {i}" for i in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    shutil.copytree(llama_folder, tmp_path / "other")
    tokenizer("unigram", 120).save_pretrained(tmp_path / "other")
    body = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 2, "test": 2},
        "teacher": {"model": str(llama_folder), "train": {"steps": 1}},
        "student": {"model": str(tmp_path / "other")},
        "distill": {"steps": 1, "generations": 2, "control": False},
        "prompt": {"teacher": {"template": "Text: {text}\nTitle:"}, "max_new_tokens": 8},
    }
    with pytest.raises(AttarError, match="another tokenizer than the teacher"):
        made("assistant", tmp_path, body)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of a finished run with two members, an assistant, two generations and a moving average."""
    home = tmp_path_factory.mktemp("chain")
    body = _body(teacher={"members": 2, "combine": "per_row"}, distill={"generations": 2, "ema": {}}, assistant=BETWEEN)
    (home / "chain.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(store))
        api.run(home / "chain.yaml", home / "run")
    return home / "run"


def test_a_whole_run_shows_everyone_and_judges_student_over_control(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text(encoding="utf-8"))
    names = ["teacher", "assistant", "assistant_2", "control", "student", "compressed", "exported"]
    assert [model["name"] for model in summary["models"]] == names
    assert _row(summary, "teacher")["title"] == "2 × mlp of widths 12, trained"
    assert _row(summary, "assistant")["title"] == "mlp of widths 8, assistant"
    assert _row(summary, "assistant_2")["title"] == "mlp of widths 4, generation 1 of the student"
    member = 64 * 12 + 12 + 12 * 10 + 10
    assert _row(summary, "teacher")["parameters"] == 2 * member
    assert _row(summary, "teacher")["latency_ms"]["n"] == 5
    assert summary["verdict"]["claim"] == "student over control"
    assert list(summary["curves"]) == ["teacher", "teacher_2", "control", "assistant", "assistant_2", "student"]
    notes = {part["stage"]: part["note"] for part in summary["pipeline"]}
    assert notes["record_assistant"] == "280 rows, 280 calls"
    assert "generation 1 of the student" in (whole / "report.html").read_text(encoding="utf-8")


def test_the_recipe_in_its_folder_is_the_same_job(whole: Path) -> None:
    recipe, base = load_recipe(str(whole))
    assert all(stage.stored for stage in check(recipe, base).stages)


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"teacher": {"combine": "per_row"}}, "teacher.combine", "Set teacher.members to 2 or more"),
        (
            {"teacher": {"members": 2, "combine": "weighted"}, "data": {"gold": ["train", "test"]}},
            "teacher.combine",
            "data.gold must hold 'validation'",
        ),
        ({"student": {"layers": {"count": 2}}}, "student.layers", "is for models of transformers"),
        ({"assistant": {"build": None, "model": "teacher", "layers": {"count": 2, "measure": "kl"}}}, "", ""),
        (
            {"assistant": BETWEEN, "distill": {"objective": [{"use": "hidden"}]}},
            "assistant",
            "cannot be used with an objective that compares features",
        ),
        (
            {"distill": {"generations": 2, "objective": [{"use": "hidden"}]}},
            "distill.generations",
            "cannot be used with an objective that compares features",
        ),
        (
            {"teacher": {"members": 2}, "distill": {"objective": [{"use": "hidden"}]}},
            "teacher.members",
            "an ensemble has none",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_told_with_its_path(changes: Any, where: str, said: str) -> None:
    recipe = Recipe.model_validate(_body(**changes))
    if not where:
        check(recipe, Path())
        return
    with pytest.raises(RecipeError) as caught:
        check(recipe, Path())
    assert where in [mistake.where for mistake in caught.value.mistakes]
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("student", "where", "said"),
    [
        ({"layers": {"count": 1, "measure": "kl"}}, "student.layers.measure", "needs a head that knows the task"),
        ({"layers": {"count": 1}, "pretrained": False}, "student.layers", "needs pretrained weights"),
        ({"layers": {"count": 3}}, "student.layers", "within the model's 2 layers (0 to 1), got 3"),
    ],
    ids=str,
)
def test_layers_by_damage_are_checked_before_the_run(
    student: Any, where: str, said: str, bert_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.csv").write_text("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", encoding="utf-8")
    body = {
        "task": "text-classification",
        "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 1, "test": 1},
        "teacher": {"model": str(bert_folder), "train": {}},
        "student": {"model": str(bert_folder), **student},
    }
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), tmp_path)
    assert where in [mistake.where for mistake in caught.value.mistakes]
    assert said in str(caught.value)


def test_an_assistant_and_the_students_own_texts_do_not_go_together(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,title\none,a\ntwo,b\nthree,c\nfour,d\n", encoding="utf-8")
    body = {
        "task": "text-generation",
        "data": {"source": "pairs.csv", "text": "text", "target": "title", "validation": 1, "test": 1},
        "teacher": {"model": str(llama_folder), "train": {}, "members": 2},
        "student": {"model": "teacher"},
        "distill": {"generations": 2, "on_policy": {}},
    }
    with pytest.raises(RecipeError) as caught:
        check(Recipe.model_validate(body), tmp_path)
    said = {mistake.where: mistake.message for mistake in caught.value.mistakes}
    assert "cannot be used with distill.on_policy" in said["distill.generations"]
    assert "must be 1 for text-generation" in said["teacher.members"]
