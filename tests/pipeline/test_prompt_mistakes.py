"""Wrong prompts and searches: each ends in one message and status 2, or in a clean answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.prompted import BETTER, lay_out

import attar
from attar import cli
from attar.errors import AttarError

Check = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return a recipe with its table and its model beside it."""
    return lay_out(tmp_path_factory.mktemp("mistakes"), llama_folder)


@pytest.fixture
def tune(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Check:
    """Return ``attar tune`` of the recipe: keys laid over it -> status, stdout, stderr in one line."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(**changes: Any) -> tuple[int, str, str]:
        words = ["attar", "tune", str(recipe), "--folder", str(tmp_path / "run")]
        for key, value in changes.items():
            words += ["--set", f"{key.replace('__', '.')}={json.dumps(value)}"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, " ".join(said.err.split())

    return run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt__teacher__search": ["demonstrtions"]}, "Did you mean 'demonstrations'?"),
        ({"prompt__teacher__search": "bnak"}, "Did you mean 'bank'?"),
        (
            {"prompt__teacher__search": ["bank", {"use": "demonstrations", "characters": 0}]},
            "prompt.teacher.search[1].characters: must be >= 1, got 0.",
        ),
        (
            {"prompt__teacher__search": [{"use": "demonstrations", "caracters": 9}]},
            "prompt.teacher.search[0].caracters: is not a key here. Did you mean 'characters'?",
        ),
        ({"prompt__teacher__template": "Review:"}, "must name {text} once, where the example stands, got 'Review:'"),
        ({"prompt__teacher__templates": ["{text} or {text}"]}, "must name {text} once"),
        ({"prompt__teacher__instruction": "Judge {text}."}, "an instruction is said once and must not name {text}"),
        ({"prompt__teacher__criterion": "acuracy"}, "Did you mean 'accuracy'?"),
        ({"prompt__teacher__held_out": 1}, "prompt.teacher.held_out: must be < 1, got 1."),
        ({"prompt__teacher__budget": {"seconds": -1}}, "prompt.teacher.budget.seconds: must be >= 0, got -1."),
        ({"prompt__teacher__budget": {"minutes": 1}}, "prompt.teacher.budget.minutes: is not a key here."),
        ({"data__labels": []}, "data.labels"),
        ({"prompt__teacher__words": {"fine": "good"}}, "must name every label once"),
        ({"prompt__teacher__words": {"fine": ["good", "well"], "bad": "bad"}}, "equally many variants, got [2, 1]"),
        ({"prompt__teacher__words": {"fine": "same", "bad": "same"}}, "must tell the labels apart"),
        ({"prompt__teacher__criterion": "kl"}, "The criterion kl compares with a teacher, and here is none"),
        (
            {"prompt__teacher__criterion": "accuracy", "data__gold": ["test"]},
            "The criterion accuracy needs gold labels on validation",
        ),
    ],
)
def test_a_mistake_ends_in_one_message(tune: Check, changes: dict[str, Any], said: str) -> None:
    status, out, err = tune(**changes)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("error:") == 1
    assert "Traceback" not in err


def test_a_chat_prompt_needs_a_tokenizer_that_has_a_chat_template(recipe: Path, tune: Check, tmp_path: Path) -> None:
    template = recipe.parent / "model" / "chat_template.jinja"
    aside = template.rename(tmp_path / "aside.jinja")
    try:
        status, out, err = tune(prompt__teacher__chat=True)
    finally:
        aside.rename(template)
    assert (status, out) == (2, "")
    assert "the teacher's tokenizer has no chat template. Set chat: false." in err


def test_a_budget_of_nothing_keeps_the_recipes_own_prompt(recipe: Path, tmp_path: Path) -> None:
    for unit in ("seconds", "tokens"):
        found = attar.tune(recipe, tmp_path / unit, prompt__teacher__budget={unit: 0})
        assert found.prompt == found.own
        assert found.facts["why"] == "no gain: the budget was spent before anything was scored"
        assert found.facts["gain"] is None
        assert not found.facts["kept"]
        assert all(row["left"] == "not scored" for row in found.facts["tried"])
        page = (tmp_path / unit / "prompts.md").read_text(encoding="utf-8")
        assert "No gain: the budget was spent before anything was scored." in page


def test_without_held_out_examples_a_winner_is_used_but_not_proven(tune: Check, tmp_path: Path) -> None:
    status, out, err = tune(prompt__teacher__held_out=0)
    assert status == 0
    assert out.startswith(BETTER)
    assert "not proven: no validation examples were held out to judge it" in err
    assert "p = " not in err


def test_words_that_begin_alike_are_read_to_where_they_differ(recipe: Path, tmp_path: Path) -> None:
    words = {"fine": "zq1", "bad": "zq2"}
    found = attar.tune(recipe, tmp_path / "run", prompt__teacher__words=words, prompt__teacher__search="none")
    assert found.prompt.words == ("zq1", "zq2")
    (row,) = found.facts["tried"]
    assert 0.2 < row["score"] < 0.8  # both are chosen


def test_a_demonstration_longer_than_the_prompt_may_be_is_not_shown(recipe: Path, tmp_path: Path) -> None:
    changes = {"data__gold": ["train", "validation", "test"], "prompt__teacher__search": ["demonstrations"]}
    changes |= {"prompt__teacher__template": "{text}\nGood quality or bad:"}
    found = attar.tune(recipe, tmp_path / "run", prompt__teacher__prompt_tokens=16, **changes)
    assert {row["demonstrations"] for row in found.facts["tried"]} == {0}


def test_a_model_that_overflows_is_told(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attar.prompts.scoring.label_words import LabelWordScorer

    def broken(self: Any, prompts: Any, texts: Any, words: Any) -> Any:
        return [np.full((len(texts), len(words)), np.nan, np.float32) for _ in prompts]

    monkeypatch.setattr(LabelWordScorer, "score_all", broken)
    with pytest.raises(AttarError, match=r"was scored as nan.*float32"):
        attar.tune(recipe, tmp_path / "run")
