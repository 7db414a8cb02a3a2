"""Recipes are read whole: every mistake at once, each with its path and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from attar.errors import AttarError, RecipeError
from attar.pipeline.load import find, lay, load_recipe, parse, ready_recipes, validate
from attar.pipeline.recipe import Recipe

SHORT: dict[str, Any] = {
    "task": "text-classification",
    "data": {"source": "reviews.csv", "text": "review", "label": "stars"},
    "teacher": {"model": "owner/large"},
    "student": {"model": "owner/small"},
}
OPEN = ("words", "labels")  # mappings whose keys are the user's own


def _groups(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield every group of keys of a recipe with its path."""
    yield path, kind
    for name, field in kind.model_fields.items():
        kinds = [k for k in _models(field.annotation) if k.model_config.get("extra") != "allow"]
        for inner in kinds:
            yield from _groups(inner, (*path, name))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


GROUPS = list(_groups(Recipe))
FIELDS = [((*path, name), kind.model_fields[name]) for path, kind in GROUPS for name in kind.model_fields]


def with_value(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return the short recipe with one value laid over it."""
    body: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in SHORT.items()}
    place = body
    for part in path[:-1]:
        place = place.setdefault(part, {})
    place[path[-1]] = value
    return body


def _refused(body: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(body, "recipe.yaml")
    return str(caught.value)


def test_the_shortest_recipe_has_four_keys() -> None:
    recipe = validate(SHORT, "recipe.yaml")
    assert [step.use for step in recipe.compress.steps] == ["vocabulary", "dynamic_int8"]
    assert recipe.distill.objective[0].use == "forward_kl"
    assert recipe.prompted


def test_the_walk_over_all_fields_finds_them() -> None:
    paths = {".".join(path) for path, _ in FIELDS}
    assert {"seed", "data.source", "teacher.train.epochs", "prompt.teacher.words", "student.build.widths"} <= paths
    assert len(paths) > 80


@pytest.mark.parametrize("path", [path for path, _ in FIELDS], ids=".".join)
def test_every_key_refuses_a_value_of_another_kind_and_says_where(path: tuple[str, ...]) -> None:
    message = _refused(with_value(path, object() if path[-1] not in OPEN else 3.5))
    assert ".".join(path) in message
    assert "pydantic" not in message
    assert "Traceback" not in message
    assert all(len(line) < 300 for line in message.splitlines())


def _outside(schema: dict[str, Any]) -> Iterator[Any]:
    for option in (schema, *schema.get("anyOf", ())):
        if "exclusiveMinimum" in option:
            yield option["exclusiveMinimum"]
        if "minimum" in option:
            yield option["minimum"] - 1
        if "exclusiveMaximum" in option:
            yield option["exclusiveMaximum"]
        if "maximum" in option:
            yield option["maximum"] + 1
        if "enum" in option or "const" in option:
            yield "no such choice"


BOUNDS = [
    ((*path, name), value)
    for path, kind in GROUPS
    for name, schema in kind.model_json_schema()["properties"].items()
    for value in _outside(schema)
]


@pytest.mark.parametrize(("path", "value"), BOUNDS, ids=lambda v: ".".join(v) if isinstance(v, tuple) else str(v))
def test_every_bound_is_kept_and_told(path: tuple[str, ...], value: Any) -> None:
    message = _refused(with_value(path, value))
    assert f"{'.'.join(path)}: must be" in message
    assert f"got {value!r}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("path", [p for p, f in FIELDS if f.annotation is float], ids=".".join)
def test_numbers_are_finite(path: tuple[str, ...], value: float) -> None:
    assert ".".join(path) in _refused(with_value(path, value))


@pytest.mark.parametrize("path", [path for path, _ in FIELDS if len(path[-1]) > 3], ids=".".join)
def test_a_mistyped_key_is_named_with_the_right_one(path: tuple[str, ...]) -> None:
    typo = (*path[:-1], path[-1] + path[-1][-1])
    message = _refused(with_value(typo, 1))
    assert f"{'.'.join(typo)}: is not a key here." in message
    assert f"Did you mean '{path[-1]}'?" in message


def test_all_mistakes_are_told_at_once_each_with_its_path() -> None:
    body = {
        "task": "text-clasification",
        "dta": {},
        "data": {"source": "a.csv", "test": 2.5},
        "student": {"layers": 0},
        "distill": {"epochs": 0, "objective": [{"use": "forward_kl", "temperature": -1}, {"use": "nothing"}]},
        "compress": [{"use": "vocabulary", "minimum_cont": 1}],
    }
    with pytest.raises(RecipeError) as caught:
        validate(body, "my.yaml")
    places = {mistake.where for mistake in caught.value.mistakes}
    assert places == {
        *("task", "dta", "data.test", "teacher", "student", "distill.epochs"),
        *("distill.objective[0].temperature", "distill.objective[1].use", "compress[0].minimum_cont"),
    }
    assert str(caught.value).startswith("my.yaml has 9 mistakes:")
    assert "distill.objective[0].temperature: must be > 0, got -1." in str(caught.value)


@pytest.mark.parametrize("task", [["x"], {"a": 1}, None, 3])
def test_a_task_that_is_no_name_is_refused(task: Any) -> None:
    assert "task: must be text" in _refused({**SHORT, "task": task})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: [", "line 1"),
        ("task: a\ntask: b\n", "line 2, column 1: the key 'task' stands twice"),
        ("- a\n", "must hold keys and values"),
        ("", "got NoneType"),
        ("a: !!python/object/apply:os.getcwd []", "line 1"),
        ("a: &a [*a]\n", "aliases"),
        ("a: \0", "not YAML"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(AttarError, match=r"recipe\.yaml") as caught:
        parse(text, "recipe.yaml")
    assert said in str(caught.value)


def test_aliases_that_multiply_are_refused_and_others_are_read() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(AttarError, match="aliases"):
        parse("\n".join(lines), "recipe.yaml")
    assert parse("a: &x {b: 1}\nc: *x\n", "recipe.yaml") == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_recipe_is_found_by_path_by_name_and_by_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("digits")[0] == "digits"
    (tmp_path / "mine.yaml").write_text("task: x", encoding="utf-8")
    assert find("mine.yaml") == ("mine", "task: x", Path())
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "recipe.yaml").write_text("task: y", encoding="utf-8")
    assert find("runs/old") == ("old", "task: y", Path("runs/old"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nothing.yaml", None, "no recipe file 'nothing.yaml'"),
        ("digit", None, "Did you mean 'digits'?"),
        ("a.yaml", b"\xff\xfe", "not UTF-8"),
        ("a.yaml", b"# x\n" * 300_000, "1,200,000 bytes"),
    ],
)
def test_a_recipe_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AttarError, match=said.replace("?", r"\?")):
        load_recipe(name)


def test_overrides_are_laid_over_the_file_and_checked_with_it() -> None:
    recipe, _ = load_recipe("digits", {"distill.epochs": 1, "measure.texts": 7, "compress": []})
    assert (recipe.distill.epochs, recipe.measure.texts, recipe.compress.steps) == (1, 7, ())
    with pytest.raises(RecipeError, match=r"distill\.epochs: must be > 0, got 0"):
        load_recipe("digits", {"distill.epochs": 0})
    with pytest.raises(AttarError, match="'task' holds no keys"):
        load_recipe("digits", {"task.x": 1})
    with pytest.raises(AttarError, match="is empty"):
        load_recipe("digits", {"distill..epochs": 1})


def test_ready_recipes_are_four_and_valid() -> None:
    names = list(ready_recipes())
    assert names == ["digits", "reuters", "reviews", "titles"]
    for name, text in ready_recipes().items():
        recipe, _ = load_recipe(name)
        assert recipe.name == name
        assert text.startswith("# ")  # what `attar list --recipes` shows
    tasks = {"text-classification", "image-classification", "text-generation"}
    assert {load_recipe(name)[0].task for name in names} == tasks


def test_short_and_long_forms_mean_the_same() -> None:
    pairs = [
        ({"compress": ["vocabulary"]}, {"compress": [{"use": "vocabulary"}]}),
        ({"distill": {"objective": "cross_entropy"}}, {"distill": {"objective": [{"use": "cross_entropy"}]}}),
        ({"export": "onnx"}, {"export": {"to": "onnx"}}),
    ]
    for short, long in pairs:
        assert validate({**SHORT, **short}, "x") == validate({**SHORT, **long}, "x")


def test_a_key_laid_over_an_anchor_changes_the_place_that_it_names_alone() -> None:
    shared = {"steps": 2}
    raw = lay({"distill": shared, "teacher": {"train": shared}}, {"distill.steps": 9})
    assert raw["distill"]["steps"] == 9
    assert raw["teacher"]["train"]["steps"] == 2
