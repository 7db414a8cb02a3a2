"""Runs whose student cuts text into other tokens than its teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipeline.in_process import made

from attar import api
from attar.errors import AttarError
from attar.pipeline import generation
from attar.pipeline.check import check
from attar.pipeline.recipe import Recipe
from attar.sources import data as sources
from attar.students.transformers import load_tokenizer
from attar.teachers.aligned import AlignedTeacher

WORDS = ("warm", "soft", "red", "blue", "long", "short")
TRAIN = {"batch_size": 4, "learning_rate": 0.003, "precision": "float32", "validations": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, tokenizer: Callable[..., Any]) -> Path:
    """Return a folder with a table, the teacher's model, and students: with its tokenizer, and with two others."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    home = tmp_path_factory.mktemp("crossing")
    rows = [f"a {one} and {two} dress that fits,{one} {two}" for one in WORDS for two in WORDS if one != two]
    (home / "pairs.csv").write_text("\n".join(["text,title", *rows]), encoding="utf-8")
    shutil.copytree(llama_folder, home / "same")
    for name, words in (("unigram", tokenizer("unigram", 120)), ("bpe", tokenizer("bpe", 60))):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "max_position_embeddings": 512}
        ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        config = LlamaConfig(vocab_size=len(words), num_attention_heads=2, num_key_value_heads=1, **sizes, **ends)
        LlamaForCausalLM(config).save_pretrained(home / name)
        words.save_pretrained(home / name)
    return home


@pytest.fixture(autouse=True)
def shared(own_cache: None, home: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the file's cache."""
    monkeypatch.setenv("ATTAR_CACHE", str(home / "cache"))


@pytest.fixture
def body(home: Path, llama_folder: Path) -> Callable[..., dict[str, Any]]:
    """Return a maker of recipes for a student of the home."""

    def make(student: str, **distill: Any) -> dict[str, Any]:
        return {
            "task": "text-generation",
            "data": {
                **{"source": str(home / "pairs.csv"), "text": "text", "target": "title"},
                **{"train": 12, "validation": 3, "test": 5},
            },
            "teacher": {"model": str(llama_folder), "precision": "float32", "train": {**TRAIN, "steps": 6}},
            "student": {"model": str(home / student)},
            "prompt": {"teacher": {"template": "{text}\nTitle:", "chat": False}, "max_new_tokens": 8},
            "distill": {**TRAIN, "steps": 4, "objective": {"use": "forward_kl", "temperature": 1}, **distill},
            "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
        }

    return make


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list of the teachers that were laid across tokenizers."""
    found: list[Any] = []
    before = AlignedTeacher.__init__

    def noted(self: AlignedTeacher, *given: Any, **named: Any) -> None:
        before(self, *given, **named)
        found.append(self)

    monkeypatch.setattr(AlignedTeacher, "__init__", noted)
    return found


@pytest.mark.parametrize("student", ["unigram", "bpe"])
def test_a_student_of_another_tokenizer_learns_from_the_same_record(
    student: str, home: Path, tmp_path: Path, body: Any, heard: list[Any]
) -> None:
    own, other = made("student", tmp_path, body("same")), made("student", tmp_path, body(student))
    assert len(heard) == 1
    assert other["record"].key == own["record"].key
    matched = other["student"].card["matched"]
    assert 0 < matched["student_ids_matched"] <= 1
    assert 0 < matched["teacher_ids_matched"] <= 1
    assert "matched" not in other["control"].card
    assert other["student"].card["steps"] == 4
    assert all(row["loss"] > 0 for row in other["student"].card["history"])
    assert all(check["passed"] for check in other["student"].card["preflight"])
    assert len(load_tokenizer(other["student"].folder)) == len(load_tokenizer(home / student))
    examples = sources.load(other["data"].folder).split("validation")
    said = heard[0].answer(examples)
    assert said.choices == len(load_tokenizer(home / student))
    assert said.key[:, 0].unique().tolist() == sorted(examples.keys.tolist())
    assert 0 < int((said.weight > 0).sum()) < len(said.weight)  # heard where both begin a token, and nowhere else


def test_what_the_teacher_says_across_tokenizers_moves_the_student(tmp_path: Path, body: Any) -> None:
    one, two = (
        made("student", tmp_path, body("bpe", objective={"use": "forward_kl", "temperature": temperature}))
        for temperature in (1, 2)
    )
    control = one["control"].card["history"]
    losses = [[row["loss"] for row in rows] for rows in (one["student"].card["history"], control)]
    assert losses[0] != losses[1]
    assert one["student"].card["history"] != two["student"].card["history"]
    assert two["control"].card["history"] == control


def test_a_student_of_the_same_tokenizer_is_not_wrapped(tmp_path: Path, body: Any, heard: list[Any]) -> None:
    done = made("student", tmp_path, body("same", steps=3))
    assert heard == []
    assert "matched" not in done["student"].card


def test_a_live_teacher_crosses_tokenizers_too(tmp_path: Path, body: Any, heard: list[Any]) -> None:
    done = made("student", tmp_path, body("bpe", on_policy={"share": 0.5, "buffer": 4}))
    assert heard
    assert done["student"].card["matched"]["student_ids_matched"] > 0.5


def test_a_whole_run_across_tokenizers_ends_with_its_proof(
    tmp_path: Path, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: {"peak_rss_bytes": 1} for name in ("teacher", "student", "exported")}
    monkeypatch.setattr(generation, "measure_files", lambda *given: files)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(body("unigram")), encoding="utf-8")
    api.run(tmp_path / "recipe.yaml", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in summary["models"]] == ["teacher", "control", "student", "exported"]
    assert all(check["passed"] for check in summary["preflight"])
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"objective": {"use": "dkd"}, "on_policy": {}}, "dkd needs scores of every token"),
        (
            {"objective": {"use": "forward_kl", "temperature": {"start": 2, "end": 1}}, "record": "full"},
            "a ramp of temperatures needs scores of every token",
        ),
        ({"record": "sampled"}, "must give scores of tokens or the likeliest of them; this one gives hard, sampled"),
    ],
    ids=["scores", "ramp", "sample"],
)
def test_what_cannot_be_told_across_tokenizers_is_refused_with_a_way_out(
    distill: Any, said: str, tmp_path: Path, body: Any
) -> None:
    recipe = Recipe.model_validate(body("bpe", control=False, **distill))
    check(recipe, tmp_path)  # whose tokenizer is whose is known when the weights are here
    with pytest.raises(AttarError, match=said):
        made("student", tmp_path, recipe)
    made("student", tmp_path, Recipe.model_validate(body("same", control=False, **distill)))
