"""The check finds every mistake without loading weights, and plans with keys that change with every input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.errors import RecipeError
from attar.pipeline.check import Plan, check
from attar.pipeline.load import load_recipe
from attar.settings import cache_folder
from attar.store.artifacts import Store

Make = Callable[..., Path]


@pytest.fixture
def text_recipe(tmp_path: Path, bert_folder: Path) -> Make:
    """Return a maker of a text recipe with its table and model beside it; dotted keys are laid over it."""
    rows = [f"{('fine', 'bad')[i % 2]} thing number {i},{('good', 'bad')[i % 2]}" for i in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    shutil.copytree(bert_folder, tmp_path / "model")

    def make(**changes: Any) -> Path:
        body: dict[str, Any] = {
            "task": "text-classification",
            "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 10, "test": 20},
            "teacher": {"model": "model", "train": {"steps": 2}},
            "student": {"model": "model"},
        }
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = body
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
        return path

    return make


def _plan(path: Path | str, **overrides: Any) -> Plan:
    recipe, base = load_recipe(str(path), {key.replace("__", "."): value for key, value in overrides.items()})
    return check(recipe, base)


def _keys(path: Path | str, **overrides: Any) -> dict[str, str]:
    return {stage.name: stage.key for stage in _plan(path, **overrides).stages}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after)
    return {name for name, key in before.items() if after[name] != key}


ALL = {"data", "teacher", "record", "control", "student", "compress", "export", "measure"}
LATER = {"student", "compress", "export", "measure"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"seed": 1}, ALL),
        ({"data__test": 21}, ALL),
        ({"data__max_characters": 99}, ALL),
        ({"teacher__train": {"steps": 3}}, ALL - {"data"}),
        ({"teacher__precision": "float32"}, ALL - {"data", "teacher"}),
        ({"distill__epochs": 2}, LATER | {"control"}),
        ({"student__layers": 1}, LATER | {"control"}),
        ({"distill__objective": "cross_entropy"}, LATER),
        ({"distill__objective": [{"use": "forward_kl", "temperature": 3}]}, LATER),
        ({"compress": ["vocabulary"]}, {"export", "measure"}),
        ({"measure__resamples": 500}, {"measure"}),
        ({"name": "other"}, set()),
        ({"device": "cpu"}, set()),
        ({"distill__checkpoint_seconds": 1}, set()),
        ({"teacher__train": {"steps": 2, "checkpoint_seconds": 1}}, set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_key_changes_with_what_its_stage_depends_on_and_with_nothing_else(
    text_recipe: Make, change: dict[str, Any], stages: set[str]
) -> None:
    before = _keys(text_recipe())
    assert _changed(before, _keys(text_recipe(**change))) == stages


def test_a_key_changes_with_the_content_of_the_data(text_recipe: Make, tmp_path: Path) -> None:
    before = _keys(text_recipe())
    with (tmp_path / "texts.csv").open("a", encoding="utf-8") as table:
        table.write("\none more thing,good\n")
    assert _changed(before, _keys(text_recipe())) == ALL


def test_a_key_changes_with_one_bit_of_the_weights(text_recipe: Make, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    before = _keys(text_recipe(student__model="other"))
    assert _changed(before, _keys(text_recipe(student__model="model"))) == set()  # the same content elsewhere
    path = tmp_path / "other" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert _changed(before, _keys(text_recipe(student__model="other"))) == LATER | {"control"}


def test_a_key_does_not_depend_on_where_things_lie(text_recipe: Make, tmp_path: Path) -> None:
    before = _keys(text_recipe())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("recipe.yaml", "texts.csv", "model"):
        shutil.move(tmp_path / name, moved / name)
    assert _changed(before, _keys(moved / "recipe.yaml")) == set()


def test_a_run_without_a_control_has_no_such_stage() -> None:
    plan = _plan("digits", distill__control=False)
    assert [stage.name for stage in plan.stages] == [
        *("data", "teacher", "record", "student", "compress", "export", "measure")
    ]


def test_a_prompted_teacher_has_the_stages_of_prompts(text_recipe: Make, llama_folder: Path) -> None:
    plan = _plan(text_recipe(teacher={"model": str(llama_folder)}))
    assert [stage.name for stage in plan.stages][:4] == ["data", "weights", "prompt", "record"]
    assert plan.teacher_calls is not None
    assert plan.teacher_calls > 60


def test_stages_come_after_their_parents() -> None:
    seen: set[str] = set()
    for stage in _plan("digits").stages:
        assert set(stage.parents) <= seen
        seen.add(stage.name)


def test_the_plan_is_json_and_says_what_is_stored() -> None:
    plan = _plan("digits")
    assert json.loads(json.dumps(plan.to_json()))["stages"][0]["stored"] is False
    content = cache_folder() / "content"
    content.mkdir(parents=True)
    Store(cache_folder()).put("data", plan.stages[0].key, content, {}, {})
    again = _plan("digits")
    assert [stage.stored for stage in again.stages] == [True] + [False] * 7
    assert plan.seconds is not None
    assert again.seconds is not None
    assert again.seconds < plan.seconds


def _spoil_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_tokenizer, "has no tokenizer"),
        (_spoil_weights, "no whole safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_spoilt_model_folder_is_found_before_anything_is_done(
    text_recipe: Make, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    recipe = text_recipe()
    spoil(tmp_path / "model")
    with pytest.raises(RecipeError, match=said) as caught:
        _plan(recipe)
    assert {mistake.where for mistake in caught.value.mistakes} == {"teacher.model", "student.model"}


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"teacher": {"model": "model"}}, "teacher.model", "must be a causal language model"),
        ({"student": {"build": {}}}, "student.build", "a text task needs `model`"),
        ({"student": {"model": "torchvision:resnet18"}}, "student.model", "must be a text model"),
        ({"student__layers": 3}, "student.layers", "within the model's 2 layers (0 to 1), got 3"),
        ({"student__layers": [0, 2]}, "student.layers", "got [0, 2]"),
        ({"student": {"model": "sklearn:digits"}}, "student.model", "sklearn: gives data"),
        ({"data__gold": ["test"]}, "teacher.train", "data.gold must hold 'train'"),
        ({"data__gold": ["train"]}, "data.gold", "must hold 'test'"),
        ({"data__text": "txt"}, "data", "Did you mean 'text'?"),
        ({"data__source": "gone.csv"}, "data", "does not exist"),
        ({"distill__objective": [{"use": "forward_kl", "weight": 0}]}, "distill.objective", "at least one weight > 0"),
        ({"compress": ["channels"]}, "compress[0]", "Fitting: "),
        ({"compress": ["dynamic_int8", "vocabulary"]}, "compress[1]", "must stand before"),
        ({"compress": ["vocabulary", "vocabulary"]}, "compress[1]", "stands twice"),
        ({"compress": ["low_rank", "vocabulary"]}, "compress[1]", "cannot work on what low_rank leaves"),
        ({"compress": ["weights", "dynamic_int8"]}, "compress[1]", "cannot work on what weights leaves"),
        ({"compress": [{"use": "low_rank", "ratio": 0.5, "rounds": 2}]}, "compress[0].rounds", "done at once"),
        ({"prompt": {"teacher": {"input": "mail"}}}, "prompt", "for a teacher that is a language model"),
    ],
)
def test_what_does_not_go_together_is_told_with_its_path(
    text_recipe: Make, changes: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        _plan(text_recipe(**changes))
    assert [mistake.where for mistake in caught.value.mistakes] == [where]
    assert said in str(caught.value)


def test_words_must_name_every_label(text_recipe: Make, llama_folder: Path) -> None:
    words = {"teacher": {"words": {"good": "fine"}}}
    recipe = text_recipe(teacher={"model": str(llama_folder)}, prompt=words, data__labels=["good", "bad"])
    with pytest.raises(RecipeError, match=r"prompt\.teacher\.words: prompt words must name every label once"):
        _plan(recipe)


def test_names_of_the_libraries_of_models_are_known_before_the_run() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    _plan("digits", student={"model": "timm:resnet18.a1_in1k"})
    for name in ("timm:resnet1888", "torchvision:resnet_18"):
        with pytest.raises(RecipeError, match=r"has no model .*Did you mean 'resnet18'\?"):
            _plan("digits", student={"model": name})


def test_several_mistakes_are_told_at_once(text_recipe: Make) -> None:
    recipe = text_recipe(data__text="txt", student__layers=9, compress=["channels"])
    with pytest.raises(RecipeError) as caught:
        _plan(recipe)
    assert [mistake.where for mistake in caught.value.mistakes] == ["data", "student.layers", "compress[0]"]


def test_checking_imports_no_library_of_models(text_recipe: Make) -> None:
    code = (
        "import sys; from attar.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = set('torch transformers onnxruntime onnx datasets accelerate sklearn timm torchvision'.split())\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "check", str(text_recipe()), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["stages"][0]["name"] == "data"
