"""The summary: what of a record's card it copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.core.prompt import TextPrompt
from attar.pipeline.recipe import Recipe
from attar.pipeline.summary import _prompt, _record
from attar.store.artifacts import Artifact


def _done(card: dict[str, Any]) -> dict[str, Artifact]:
    return {"record": Artifact("key", "record", Path(), {}, card)}


def test_what_asking_cost_is_copied_from_the_record() -> None:
    spent = {"calls": 3, "dollars": 0.5}
    card = {"rows": 4, "calls": 2, "examples": 3, "spent": spent, "preflight": [], "schema": 1}
    assert _record(_done(card)) == {"rows": 4, "calls": 2, "examples": 3, "spent": spent}


def test_a_run_without_a_record_has_none() -> None:
    assert _record({}) is None


OWN = TextPrompt("{text}\nMood:", ("sad", "glad"), name="recipe")
WON = TextPrompt("{text}\nTone:", ("sad", "glad"), demonstrations=(("Fits.", 1),), name="own-1+1")


def _searched(used: TextPrompt, own_prompt: Any = None, **facts: Any) -> Any:
    tried = [
        {"name": "own-1+1", "left": "won", "tokens": 9, "how": "demonstration added", "parents": ["own-1"], "n": 90},
        {"name": "recipe", "left": "lost in the last round", "tokens": 4, "how": "bank", "parents": [], "n": 90},
    ]
    known = {"criterion": "accuracy", "why": "it", "gain": None, "spent": {"tokens": 5.0}, "left_out": {}}
    card = {"own": OWN.to_json(), "prompt": used.to_json()}
    card["facts"] = {**known, "tried": tried, "kept": used != OWN, **facts}
    measured = {"models": [{"name": "teacher", "quality": {"value": 0.9}}], "own_prompt": own_prompt}
    return _prompt(_recipe("text-classification", "head"), _found(card), measured)


def _found(card: dict[str, Any], **exported: Any) -> dict[str, Artifact]:
    return {
        "prompt": Artifact("key", "prompt", Path(), {}, card),
        "export": Artifact("key", "export", Path(), {}, exported),
    }


def _recipe(task: str, answers_by: str) -> Recipe:
    told = {"target": "title"} if task == "text-generation" else {"label": "mood"}
    return Recipe.model_validate(
        {
            "task": task,
            "data": {"source": "t.csv", "text": "text", **told},
            "teacher": {"model": "m"},
            "student": {"model": "s", "answers_by": answers_by},
        }
    )


def test_the_prompt_used_stands_beside_the_recipes_own_with_what_changed() -> None:
    teacher = _searched(WON, {"value": 0.7})["teacher"]
    assert (teacher["before"]["quality"], teacher["after"]["quality"]) == ({"value": 0.7}, {"value": 0.9})
    assert teacher["before"]["text"] == str(OWN)
    assert teacher["after"]["demonstrations"] == 1
    assert teacher["after"]["parents"] == ["own-1"]
    assert (teacher["before"]["tokens"], teacher["after"]["tokens"]) == (4, 9)
    assert "-Mood:" in teacher["diff"]
    assert teacher["spent"] == {"tokens": 5.0}


def test_where_the_recipes_own_prompt_is_used_the_winner_is_not_taken_for_it() -> None:
    teacher = _searched(OWN)["teacher"]
    assert teacher["after"] == teacher["before"]
    assert teacher["after"]["quality"] == {"value": 0.9}
    assert teacher["diff"] == ""
    assert not teacher["kept"]


def test_a_search_that_scored_nothing_has_no_winner() -> None:
    assert _searched(OWN, tried=[])["teacher"]["after"]["template"] == OWN.template


def test_an_own_prompt_that_was_not_measured_has_no_quality() -> None:
    assert _searched(WON)["teacher"]["before"]["quality"] is None


@pytest.mark.parametrize(
    ("task", "answers_by", "kept"),
    [
        ("text-classification", "head", False),
        ("text-classification", "label_words", False),
        ("text-generation", "head", True),
    ],
)
def test_a_student_that_writes_reads_the_recipes_prompt(task: str, answers_by: str, kept: bool) -> None:
    card = {"own": OWN.to_json(), "prompt": OWN.to_json()}
    card["facts"] = dict.fromkeys(("criterion", "why", "kept", "gain", "spent", "left_out")) | {"tried": []}
    measured = {"models": [{"name": "teacher", "quality": None}], "own_prompt": None}
    found = _prompt(_recipe(task, answers_by), _found(card), measured)
    assert found is not None
    assert found["student"]["kept"] is kept


def test_what_was_raced_on_the_bundle_is_told() -> None:
    card = {"own": OWN.to_json(), "prompt": OWN.to_json()}
    card["facts"] = dict.fromkeys(("criterion", "why", "kept", "gain", "spent", "left_out")) | {"tried": []}
    raced = {"kept": True, "name": "soft", "why": "it gains"}
    measured = {"models": [{"name": "teacher", "quality": None}], "own_prompt": None}
    recipe = _recipe("text-classification", "label_words")
    found = _prompt(recipe, _found(card, prompt=raced), measured)
    assert found is not None
    assert found["student"] == raced
    alone = {"export": Artifact("key", "export", Path(), {}, {"prompt": raced})}
    assert _prompt(recipe, alone, measured) == {"student": raced}
