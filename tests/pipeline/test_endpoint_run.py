"""Whole runs whose teacher answers behind a server: asked once, paid once, and its key is kept nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipeline.in_process import made, untimed
from tests.teachers.fake_endpoint import KEY, MODEL, FakeEndpoint, serving

from attar import api
from attar.errors import RecipeError
from attar.pipeline.check import check
from attar.pipeline.execute import recipe_text
from attar.pipeline.load import load_recipe, parse, validate
from attar.store.journal import Journal

TRAIN, VALIDATION, TEST = 12, 6, 10
ALL = TRAIN + VALIDATION + TEST
IDLE: list[tuple[str, Any]] = [
    ("templates", ["{text}?"]),
    ("search", "none"),
    ("calibration", "none"),
    ("demonstrations", 2),
    ("block", 8),
    ("max_tokens", 99),
]
"""Keys of a prompt that a server never hears of."""


@dataclass
class Home:
    """Hold a folder with a recipe, its texts, its store and the finished run ``first``."""

    folder: Path
    server: FakeEndpoint

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def calls(self) -> int:
        return self.server.seen.total()

    def summary(self, name: str) -> Any:
        return json.loads((self.folder / name / "summary.json").read_text(encoding="utf-8"))

    def card(self, stage: str) -> Any:
        (found,) = (self.folder / "cache" / "artifacts").glob(f"{stage}-*")
        return json.loads((found / "artifact.json").read_text(encoding="utf-8"))["card"]


def _body(url: str, model: Path) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "data": {
            **{"source": "texts.csv", "text": "text", "label": "label", "labels": ["negative", "positive"]},
            **{"train": TRAIN, "validation": VALIDATION, "test": TEST},
        },
        "teacher": {"endpoint": {"base_url": url, "model": MODEL, "input_price": 2.0, "output_price": 8.0}},
        "student": {"model": str(model), "max_length": 16, "layers": 1},
        "prompt": {"teacher": {"template": "Review: {text}\nSentiment:"}},
        "distill": {"steps": 2, "batch_size": 4, "precision": "float32", "validations": 1},
        "compress": [],
        "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Iterator[Home]:
    """Return the home with its first run done."""
    folder = tmp_path_factory.mktemp("endpoint")
    words = {0: ("bad", "negative"), 1: ("fine", "positive")}
    rows = [f"a {words[i % 2][0]} thing number {i},{words[i % 2][1]}" for i in range(ALL + 4)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        home = Home(folder, server)
        home.recipe.write_text(yaml.safe_dump(_body(server.url, bert_folder)), encoding="utf-8")
        patch.setenv("ATTAR_CACHE", str(folder / "cache"))
        patch.setenv("OPENAI_API_KEY", KEY)
        untimed(patch)
        api.run(home.recipe, folder / "first")
        yield home


@pytest.fixture
def ready(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return the home with its store in use, and the key at hand."""
    monkeypatch.setenv("ATTAR_CACHE", str(home.folder / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    untimed(monkeypatch)
    return home


def test_a_run_asks_each_example_once_and_ends_with_its_proof(home: Home) -> None:
    assert home.server.keys == {f"Bearer {KEY}"}
    assert set(home.server.billed.values()) == {1}
    assert home.server.billed.total() == ALL
    summary = home.summary("first")
    assert [model["name"] for model in summary["models"]] == ["teacher", "control", "student", "compressed", "exported"]
    teacher = summary["models"][0]
    assert teacher["title"] == f"{MODEL}, behind a server"
    assert teacher["quality"]["n"] == TEST
    assert not {"parameters", "bytes", "latency_ms"} & set(teacher)
    assert [part["stage"] for part in summary["pipeline"]][:3] == ["data", "record", "control"]
    assert summary["control_learns_from"] == "gold labels"


def test_report_and_card_name_the_served_teacher(home: Home) -> None:
    for name in ("report.html", "README.md"):
        assert f"{MODEL}, behind a server" in (home.folder / "first" / name).read_text(encoding="utf-8")


def test_what_was_spent_stands_in_the_card_and_in_the_summary(home: Home) -> None:
    spent = home.card("record")["spent"]
    assert (spent["calls"], spent["input_tokens"], spent["output_tokens"]) == (ALL, 20 * ALL, ALL)
    assert spent["dollars"] == pytest.approx(ALL * (20 * 2.0 + 8.0) / 1e6)
    assert home.summary("first")["record"]["spent"] == spent


def test_another_student_asks_nothing_more(ready: Home, tmp_path: Path) -> None:
    before = ready.calls
    recipe, _ = load_recipe(str(ready.recipe), {"distill.steps": 3})
    shutil.copy(ready.folder / "texts.csv", tmp_path)
    done = made("student", tmp_path, recipe)
    events = list(Journal(tmp_path / "journal.jsonl").events("stage-done"))
    assert {event["stage"] for event in events if event["reused"]} == {"data", "record"}
    assert done["student"].card["steps"] == 3
    assert ready.calls == before


def test_a_record_kept_in_another_way_reads_the_ledger(ready: Home, tmp_path: Path) -> None:
    before = ready.calls
    recipe, _ = load_recipe(str(ready.recipe), {"distill.record": {"use": "full", "precision": "float32"}})
    shutil.copy(ready.folder / "texts.csv", tmp_path)
    done = made("record", tmp_path, recipe)
    assert done["record"].card["fidelity"]["bytes_per_row"] == 8
    assert done["record"].card["spent"]["calls"] == ready.calls == before


def test_the_key_is_in_no_file(ready: Home) -> None:
    files = [path for path in ready.folder.rglob("*") if path.is_file()]
    assert any(path.parent.name == "ledgers" for path in files)
    secret = KEY.removeprefix("sk-").encode()
    assert [path for path in files if secret in path.read_bytes()] == []


def test_check_tells_calls_and_price_before_anything_is_sent(home: Home) -> None:
    before = home.calls
    plan = _checked(home)
    assert plan.teacher_calls == ALL
    assert {stage.name for stage in plan.stages} & {"weights", "teacher", "prompt"} == set()
    said = plan.notes[-1]
    assert said.startswith(f"{home.server.url} is asked at most {ALL} calls")
    read = ALL * (88 + 8 + 7)  # of a text; of a message's marks; of the template's 26 characters
    assert f"about {read:,} tokens read (88 assumed a text), {ALL} written" in said
    assert said.endswith(f"; {(read * 2.0 + ALL * 8.0) / 1e6:.3g} dollars")
    assert home.calls == before


def test_votes_are_calls_and_write_more(home: Home) -> None:
    plan = _checked(home, **{"teacher.endpoint.votes": 3, "teacher.endpoint.temperature": 1.0})
    assert plan.teacher_calls == 3 * ALL
    assert f"{3 * 16 * ALL:,} written" in plan.notes[-1]


def test_check_names_no_price_where_the_recipe_has_none(home: Home) -> None:
    plan = _checked(home, **{"teacher.endpoint.input_price": 0, "teacher.endpoint.output_price": 0})
    assert plan.notes[-1].endswith("no price is known: set input_price and output_price")


def test_check_asks_for_nothing_that_is_recorded(ready: Home) -> None:
    plan = _checked(ready, **{"distill.epochs": 7})
    assert plan.teacher_calls == 0
    assert not any("is asked" in note for note in plan.notes)
    assert plan.seconds is not None  # the record's, which only the server knows, is not among them


def test_what_is_asked_and_how_is_in_the_records_key(home: Home) -> None:
    votes = {"teacher.endpoint.votes": 3, "teacher.endpoint.temperature": 1.0}
    other = [
        {"teacher.endpoint.model": "another"},
        {"teacher.endpoint.api": "chat"},
        {"prompt.teacher.chat": True},
        votes,
        {**votes, "teacher.endpoint.temperature": 0.5},
        {**votes, "seed": 1},
    ]
    assert len({_key(home, changes) for changes in ({}, *other)}) == len(other) + 1
    same = [
        {"teacher.endpoint.max_dollars": 5.0},
        {"teacher.endpoint.concurrency": 9},
        {"teacher.endpoint.key_env": "K"},
    ]
    assert {_key(home, changes) for changes in ({}, *same)} == {_key(home, {})}


def _key(home: Home, changes: Mapping[str, Any]) -> str:
    return next(stage.key for stage in _checked(home, **changes).stages if stage.name == "record")


def test_the_recipe_in_a_runs_folder_is_the_same_job(ready: Home) -> None:
    recipe, base = load_recipe(str(ready.folder / "first"))
    assert all(stage.stored for stage in check(recipe, base).stages)


def test_the_recipe_in_a_runs_folder_still_sends_no_key(home: Home) -> None:
    recipe, base = load_recipe(
        str(home.recipe), {"teacher.endpoint.key_env": None, "teacher.endpoint.body": {"n_x": None}}
    )
    again = validate(parse(recipe_text(recipe, base), "recipe.yaml"), "recipe.yaml")
    assert again.teacher.endpoint == recipe.teacher.endpoint
    assert again.teacher.endpoint is not None
    assert again.teacher.endpoint.key_env is None


def _checked(home: Home, **changes: Any) -> Any:
    return check(*load_recipe(str(home.recipe), changes))


def _mistakes(home: Home, changes: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        _checked(home, **changes)
    return {mistake.where: mistake.message for mistake in caught.value.mistakes}


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"data.labels": None}, "data.labels", "is required with teacher.endpoint"),
        ({"task": "image-classification"}, "teacher.endpoint", "labels texts, and the task is image-classification"),
        (
            {"task": "text-generation", "data.target": "label", "data.label": None, "data.labels": None},
            "teacher.endpoint",
            "labels texts, and the task is text-generation",
        ),
        ({"teacher.endpoint.mode": "text"}, "teacher.endpoint.mode", "must be labels"),
        ({"teacher.train": {}}, "teacher.train", "a model behind a server cannot be trained"),
        ({"teacher.members": 2}, "teacher.members", "must be 1 without teacher.train"),
        ({"student.model": "teacher"}, "student.model", "cannot start from a teacher behind a server"),
        ({"distill.objective": "hidden"}, "distill.objective[0]", "hidden needs features"),
        ({"teacher.endpoint.temperature": 0.7}, "teacher.endpoint", "temperature is for votes"),
        *(({f"prompt.teacher.{name}": value}, f"prompt.teacher.{name}", "does nothing here") for name, value in IDLE),
        ({"prompt.teacher.words": {"negative": "no"}}, "prompt.teacher.words", "must name every label once"),
    ],
    ids=str,
)
def test_what_a_server_cannot_do_is_told_with_its_path(
    home: Home, changes: Mapping[str, Any], where: str, said: str
) -> None:
    assert said in _mistakes(home, changes)[where]


@pytest.mark.parametrize("name", ["api_key", "key", "token"])
def test_a_key_in_the_recipe_is_refused_and_not_repeated(home: Home, name: str) -> None:
    with pytest.raises(RecipeError, match="environment variable") as caught:
        load_recipe(str(home.recipe), {f"teacher.endpoint.{name}": KEY})
    assert KEY not in str(caught.value)


def test_a_key_in_the_place_of_the_variables_name_is_not_repeated(home: Home) -> None:
    with pytest.raises(RecipeError, match="name of an environment variable") as caught:
        load_recipe(str(home.recipe), {"teacher.endpoint.key_env": KEY})
    assert KEY not in str(caught.value)


SEARCHED = {
    "data.validation": 16,
    "prompt.teacher.search": ["bank"],
    "prompt.teacher.block": 8,
    "prompt.teacher.calibration": "none",
    "prompt.teacher.words": {"negative": "negative", "positive": "positive"},
}


@pytest.mark.parametrize("most", [40, 400])
def test_a_search_on_a_server_keeps_its_budget_and_pays_nothing_twice(ready: Home, tmp_path: Path, most: int) -> None:
    recipe, _ = load_recipe(str(ready.recipe), {**SEARCHED, "data.test": 4, "prompt.teacher.budget": {"calls": most}})
    shutil.copy(ready.folder / "texts.csv", tmp_path)
    before = ready.server.billed.copy()
    done = made("record", tmp_path, recipe)
    facts = done["prompt"].card["facts"]
    assert 0 < facts["spent"]["calls"] <= min(most, (ready.server.billed - before).total())
    assert set(ready.server.billed.values()) == {1}
    assert facts["why"]
    assert done["record"].card["rows"] == TRAIN + 16 + 4
