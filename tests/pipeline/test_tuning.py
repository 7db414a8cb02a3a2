"""Tuning a prompt alone: the stages that it needs, shared with the run; a gain that is there is found and told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.prompted import BETTER, body, lay_out

import attar
from attar import cli
from attar.errors import AttarError
from attar.pipeline.check import check
from attar.pipeline.load import load_recipe
from attar.stages.bench import LabelBench
from attar.store.files import read_json
from attar.store.journal import Journal

STAGES = ["data", "weights", "prompt"]
Attar = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return a recipe whose prompt was found into the folder ``first`` beside it, with the store in ``cache``."""
    home = tmp_path_factory.mktemp("tuning")
    path = lay_out(home, llama_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(home / "cache"))
        attar.tune(path, home / "first")
    return path


@pytest.fixture
def stored(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the recipe, with its store in use."""
    monkeypatch.setenv("ATTAR_CACHE", str(recipe.parent / "cache"))
    return recipe


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Attar:
    """Return the command line in this process: words -> status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attar", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def _done(folder: Path, reused: bool) -> list[str]:
    events = Journal(folder / "journal.jsonl").events("stage-done")
    return [event["stage"] for event in events if event["reused"] is reused]


def test_the_prompt_that_answers_better_is_found_and_left_in_the_folder(recipe: Path) -> None:
    folder = recipe.parent / "first"
    assert {path.name for path in folder.iterdir()} == {
        *(".lock", "journal.jsonl", "recipe.yaml", "prompt.json", "prompts.md"),
    }
    assert _done(folder, reused=False) == STAGES
    left = read_json(folder / "prompt.json")
    assert left["prompt"]["template"] == BETTER
    assert left["facts"]["kept"]
    assert left["facts"]["gain"]["low"] > 0
    page = (folder / "prompts.md").read_text(encoding="utf-8")
    assert "is used in place of the recipe's own prompt" in page
    assert "-So\n+It is\n" in page
    assert page.count("worse for sure after 32") >= 3


def test_what_tuning_takes_is_shared_with_the_run(stored: Path) -> None:
    plan = check(*load_recipe(str(stored)))
    assert [stage.name for stage in plan.stages if stage.stored] == STAGES
    assert len(plan.stages) > len(STAGES)


def test_tuning_again_repeats_nothing_and_gives_the_same(stored: Path, tmp_path: Path) -> None:
    found = attar.tune(stored, tmp_path / "again")
    assert _done(found.folder, reused=True) == STAGES
    first = stored.parent / "first"
    for name in ("prompt.json", "recipe.yaml"):
        assert (found.folder / name).read_bytes() == (first / name).read_bytes()
    assert found.prompt.template == BETTER
    assert found.own.template == body()["prompt"]["teacher"]["template"]
    assert found.facts["tried"][0]["left"] == "won"


def test_the_folder_of_a_tuned_prompt_is_the_same_job(stored: Path) -> None:
    plan = check(*load_recipe(str(stored.parent / "first")))
    assert [stage.name for stage in plan.stages if stage.stored] == STAGES


def test_a_recipe_may_be_a_mapping_and_keys_are_laid_over_it(stored: Path, tmp_path: Path) -> None:
    given = {**body(), "name": "mine"}
    given["data"]["source"], given["teacher"]["model"] = str(stored.parent / "texts.csv"), str(stored.parent / "model")
    given["student"]["model"] = given["teacher"]["model"]
    found = attar.tune(given, tmp_path / "mine", prompt__teacher__search="none")
    assert {row["name"] for row in found.facts["tried"]} == {"recipe"}


class Killed(Exception):
    """Stand for the kill of the process."""


def test_a_killed_search_goes_on_where_it_was(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []
    score = LabelBench.score

    def dying(bench: LabelBench, ask: Any) -> Any:
        if len(asked) == 2:
            raise Killed
        asked.append((ask.prompts[0].name, ask.first, ask.last))
        return score(bench, ask)

    monkeypatch.setattr(LabelBench, "score", dying)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Killed):
        attar.tune(stored, tmp_path / "run")
    assert not (tmp_path / "run" / "prompt.json").exists()
    before = list(asked)
    asked.clear()
    with pytest.raises(Killed):  # two questions further
        attar.tune(stored, tmp_path / "run")
    assert not set(before) & set(asked)
    asked.clear()
    monkeypatch.setattr(LabelBench, "score", score)
    found = attar.tune(stored, tmp_path / "run")
    undisturbed = read_json(stored.parent / "first" / "prompt.json")
    assert json.loads(json.dumps(found.facts["tried"])) == undisturbed["facts"]["tried"]
    assert found.prompt.to_json() == undisturbed["prompt"]
    assert _done(tmp_path / "run", reused=False) == STAGES


def test_a_finished_runs_recipe_stays_that_runs(stored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "finished"
    folder.mkdir()
    for name in ("recipe.yaml", "summary.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    attar.tune(stored, folder)
    assert (folder / "recipe.yaml").read_text(encoding="utf-8") == "{}"
    assert (folder / "prompt.json").is_file()


def test_the_command_says_words_to_people_and_the_prompt_to_programs(
    command: Attar, stored: Path, tmp_path: Path
) -> None:
    status, out, err = command("tune", str(stored), "--folder", str(tmp_path / "run"))
    assert status == 0
    assert out.splitlines()[:3] == ["{text}", "It is", "words: fine, bad"]
    for said in ("own-1", "domain calibration", "worse for sure", "held-out examples, p ", "tokens.", "prompts.md"):
        assert said in err
    status, out, err = command("tune", str(stored), "--folder", str(tmp_path / "run"), "--json")
    assert status == 0
    facts = json.loads(out)
    assert facts["prompt"]["template"] == BETTER
    assert facts["text"].startswith("{text}\nIt is")
    assert facts["kept"]
    assert "held-out" not in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("digits", "its teacher is a classifier, which reads none"),
        ("titles", "a teacher that is trained first learns the recipe's own prompt"),
    ],
)
def test_a_teacher_without_a_prompt_to_search_for_is_told(command: Attar, given: str, said: str) -> None:
    status, out, err = command("tune", given)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {given} has no prompt to search for: ")
    assert said in " ".join(err.split())


def test_a_server_that_no_budget_is_given_for_is_not_searched(recipe: Path, tmp_path: Path) -> None:
    given = {**body(), "name": "served", "teacher": {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}}
    given["data"]["source"] = str(recipe.parent / "texts.csv")
    given["student"]["model"] = str(recipe.parent / "model")
    given["prompt"] = {}
    with pytest.raises(AttarError, match=r"paid for each call.*Set a budget"):
        attar.tune(given, tmp_path / "run")
