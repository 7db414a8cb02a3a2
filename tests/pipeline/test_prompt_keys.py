"""A key of the prompt that the teacher never reads is in no stage's key, and is refused."""

from __future__ import annotations

from typing import Any

import pytest

from attar.pipeline.endpoints import endpoint_key
from attar.pipeline.graph import _writing
from attar.pipeline.load import validate
from attar.pipeline.prompt_keys import prompt_keys, prompt_mistakes
from attar.pipeline.recipe import Recipe
from attar.prompts.settings import PromptSettings

DATA = {"source": "t.csv", "text": "text", "label": "label", "labels": ["bad", "good"]}
PROMPTED: dict[str, Any] = {
    "task": "text-classification",
    "data": DATA,
    "teacher": {"model": "m"},
    "student": {"model": "s"},
}
SERVED: dict[str, Any] = {**PROMPTED, "teacher": {"endpoint": {"base_url": "http://127.0.0.1:8/v1", "model": "m"}}}
WRITES: dict[str, Any] = {
    **PROMPTED,
    "task": "text-generation",
    "data": {"source": "t.csv", "text": "text", "target": "title"},
    "teacher": {"model": "m", "train": {}},
}
UNTAUGHT: dict[str, Any] = {**WRITES, "teacher": {"model": "m"}}
OTHER: dict[str, Any] = {
    **{"template": "{text}:", "input": "mail", "target": "topic", "words": {"bad": "no", "good": "yes"}, "chat": True},
    **{"templates": ["{text}?"], "search": "none", "calibration": "none", "demonstrations": 2, "block": 8},
    **{"max_tokens": 99, "instruction": "Judge.", "criterion": "likelihood", "prompt_tokens": 99, "population": 3},
    **{"children": 3, "generations": 1, "held_out": 0.1, "budget": {"seconds": 9}},
}
"""Another value than the default for each key."""


def _recipe(body: dict[str, Any], **prompt: Any) -> Recipe:
    return validate({**body, "prompt": {"teacher": prompt}}, "recipe.yaml")


def test_the_values_here_are_for_all_keys() -> None:
    assert set(OTHER) == set(PromptSettings.model_fields)


@pytest.mark.parametrize("name", sorted(set(OTHER) - {"budget"}))
@pytest.mark.parametrize(("body", "read"), [(SERVED, ("words",)), (WRITES, ())], ids=["served", "writes"])
def test_a_key_is_read_and_in_the_stages_key_or_refused(body: dict[str, Any], read: tuple[str, ...], name: str) -> None:
    plain, changed = _recipe(body), _recipe(body, **{name: OTHER[name]})
    is_read = name in ("template", "instruction", "input", "target", "chat", *read)
    assert [one.where for one in prompt_mistakes(changed)] == ([] if is_read else [f"prompt.teacher.{name}"])
    key = endpoint_key if body is SERVED else _writing
    assert (key(plain) != key(changed)) == is_read


def test_a_prompt_that_is_searched_for_reads_every_key() -> None:
    assert prompt_keys(_recipe(PROMPTED)) == set(OTHER)
    assert list(prompt_mistakes(_recipe(PROMPTED, **OTHER))) == []


def test_a_server_is_searched_on_only_within_a_budget() -> None:
    assert not _recipe(SERVED).finds_prompt
    paid = _recipe(SERVED, budget={"calls": 100})
    assert paid.finds_prompt
    assert prompt_keys(paid) == set(OTHER)
    assert not _recipe(SERVED, budget={"calls": 100}, search="none").finds_prompt
    text = {**SERVED, "teacher": {"endpoint": {**SERVED["teacher"]["endpoint"], "mode": "text"}}}
    assert not _recipe(text, budget={"calls": 100}).finds_prompt


def test_a_teacher_that_writes_untrained_has_its_prompt_searched_for_and_its_student_reads_the_recipes_own() -> None:
    assert _recipe(UNTAUGHT).finds_prompt
    assert {"words", "calibration", "criterion"} & prompt_keys(_recipe(UNTAUGHT)) == set()
    assert _writing(_recipe(UNTAUGHT)) == _writing(_recipe(UNTAUGHT, generations=9))
    assert not _recipe(WRITES).finds_prompt
    blind = {**UNTAUGHT, "data": {**UNTAUGHT["data"], "gold": ["test"]}}
    assert not _recipe(blind).finds_prompt


@pytest.mark.parametrize("body", [SERVED, WRITES], ids=["served", "writes"])
def test_defaults_that_are_spelled_out_are_no_mistake(body: dict[str, Any]) -> None:
    assert list(prompt_mistakes(_recipe(body, **PromptSettings().model_dump(mode="json")))) == []


def test_the_seed_is_in_a_served_teachers_key_only_where_it_draws() -> None:
    def key(seed: int, **asked: Any) -> dict[str, Any]:
        endpoint = {**SERVED["teacher"]["endpoint"], **asked}
        return endpoint_key(validate({**SERVED, "teacher": {"endpoint": endpoint}, "seed": seed}, "recipe.yaml"))

    assert key(1) == key(2)
    assert key(1, votes=3, temperature=0.5) != key(2, votes=3, temperature=0.5)
