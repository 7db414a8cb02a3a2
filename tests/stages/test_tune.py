from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.settings import PromptSettings
from attar.stages import tune
from attar.stages.bench import KeptWriter
from attar.stages.tune import Aids, tune_prompt, tune_writing

LABELS = ["bad", "good"]


class Killed(Exception):
    """Stand for the kill of the process."""


def _examples(count: int, seed: int = 0, targets: bool = False) -> Examples:
    labels = np.random.Generator(np.random.PCG64(seed)).integers(0, 2, count)
    inputs = [f"{LABELS[label]} thing number {i}" for i, label in enumerate(labels)]
    wanted = tuple(f"{LABELS[label]} it is" for label in labels) if targets else None
    return Examples(np.arange(count) + 1000 * seed, inputs, labels, targets=wanted)


SPLITS = {"train": _examples(30, 1), "validation": _examples(250, 2)}


class Made:
    """Score by made-up skills: an opinion answers best, demonstrations help; it counts its questions and may die."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.token_forwards = 0
        self.dies_at: int | None = None

    def tokens(self, prompt: TextPrompt) -> int:
        return len(prompt.render("").split())

    def score_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], words: Sequence[str]) -> list[np.ndarray]:
        if len(self.asked) + 1 == self.dies_at:
            raise Killed
        self.asked.append((prompts[0].name, len(texts)))
        self.token_forwards += len(texts) * len(prompts)
        return [self._score(prompt, texts, words) for prompt in prompts]

    def _score(self, prompt: TextPrompt, texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
        skill = 0.9 if "The label is" in prompt.template else 0.7
        skill += 0.02 * len(prompt.demonstrations)
        out = np.zeros((len(texts), len(words)), np.float32)
        for row, text in enumerate(texts):
            draw = np.random.Generator(np.random.PCG64(sum(map(ord, text + prompt.render(""))))).random()
            said = text.split()[0] if text.split() else ""
            right = said if draw < skill else {"bad": "good", "good": "bad"}.get(said, "")
            out[row] = [2.0 * (word.lower() == right) + 0.1 * word.islower() for word in words]
        return out

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        return self._score(prompt, texts, prompt.words)


@pytest.fixture
def scorer() -> Made:
    return Made()


def _tune(scorer: Made, work: Path, **settings: Any) -> tune.Tuned:
    work.mkdir(parents=True, exist_ok=True)
    return tune_prompt(scorer, PromptSettings(**settings), LABELS, SPLITS, work, seed=0)


def test_the_best_wins_is_proven_and_the_table_explains(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path)
    assert "The label is" in tuned.prompt.template
    row = tuned.facts["tried"][0]
    assert row["left"] == "won"
    assert row["low"] <= row["score"] <= row["high"]
    assert row["n"] == 150
    assert tuned.facts["kept"]
    assert tuned.facts["gain"]["n"] == 100
    assert tuned.facts["gain"]["low"] > 0
    assert tuned.facts["gain"]["p"] <= 0.025
    assert "accuracy" in tuned.facts["criterion"]
    assert tuned.facts["spent"]["tokens"] == tuned.facts["token_forwards"] == scorer.token_forwards


def test_known_answers_are_of_the_prompt_that_is_kept(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path)
    assert set(tuned.keys.tolist()) == set(SPLITS["validation"].keys.tolist())
    texts = dict(zip(SPLITS["validation"].keys.tolist(), SPLITS["validation"].inputs, strict=True))
    said = scorer.answer(tuned.prompt, [texts[key] for key in tuned.keys.tolist()])
    bias = np.zeros(2) if tuned.prompt.calibration is None else np.array(tuned.prompt.calibration)
    log_p = said - np.log(np.exp(said).sum(axis=1, keepdims=True)) - bias
    assert np.allclose(tuned.scores, log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True)), atol=1e-4)


def test_demonstrations_are_bred_and_say_of_whom(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path, demonstrations=4, generations=3)
    bred = [row for row in tuned.facts["tried"] if row["generation"] > 0]
    assert any(row["demonstrations"] > 0 for row in bred)
    assert all(row["parents"] and row["how"] for row in bred)
    assert tuned.prompt.demonstrations


def test_without_solved_examples_no_demonstrations_and_the_facts_say_so(scorer: Made, tmp_path: Path) -> None:
    train = SPLITS["train"]
    blind = {**SPLITS, "train": Examples(train.keys, train.inputs, np.full(len(train), UNKNOWN))}
    tuned = tune_prompt(scorer, PromptSettings(), LABELS, blind, tmp_path, 0)
    assert tuned.facts["left_out"] == {"demonstrations": "no solved training examples may be used"}
    assert not any(row["demonstrations"] for row in tuned.facts["tried"])


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_a_killed_search_ends_as_an_undisturbed_one_and_asks_nothing_again(
    dies_at: int, scorer: Made, tmp_path: Path
) -> None:
    fresh = _tune(scorer, tmp_path / "fresh")
    all_asked, scorer.asked, scorer.dies_at = scorer.asked, [], dies_at
    with pytest.raises(Killed):
        _tune(scorer, tmp_path / "killed")
    before, scorer.asked, scorer.dies_at = scorer.asked, [], None
    again = _tune(scorer, tmp_path / "killed")
    assert before + scorer.asked == all_asked
    assert again.prompt == fresh.prompt
    assert np.array_equal(again.scores, fresh.scores)
    assert again.facts["tried"] == fresh.facts["tried"]
    assert again.facts["token_forwards"] == fresh.facts["token_forwards"]


def test_without_search_the_recipes_own_is_taken_and_calibrated(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path, search="none", calibration="batch", template="Say: {text} is")
    assert tuned.prompt.template == "Say: {text} is"
    assert tuned.prompt.calibration is not None
    assert tuned.own.calibration is None
    assert {name for name, _ in scorer.asked} == {"recipe"}


def test_labels_with_one_word_are_refused(scorer: Made, tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="names two of them alike"):
        _tune(scorer, tmp_path, words={"bad": "so", "good": "so"})


def test_nothing_to_score_on_is_refused(scorer: Made, tmp_path: Path) -> None:
    empty = {**SPLITS, "validation": SPLITS["validation"].take(np.zeros(0, np.int64))}
    with pytest.raises(AttarError, match="needs validation examples"):
        tune_prompt(scorer, PromptSettings(), LABELS, empty, tmp_path, 0)


def test_no_money_is_a_clean_answer(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path, budget={"calls": 0})
    assert tuned.prompt == tuned.own
    assert not tuned.facts["kept"]
    assert scorer.asked == []
    assert len(tuned.keys) == 0


def test_agreement_with_a_teacher_needs_no_gold(scorer: Made, tmp_path: Path) -> None:
    validation = SPLITS["validation"]
    blind = {**SPLITS, "validation": Examples(validation.keys, validation.inputs, np.full(len(validation), UNKNOWN))}
    said = np.log(np.where(np.eye(2)[validation.labels] > 0, 0.9, 0.1)).astype(np.float32)
    tuned = tune_prompt(scorer, PromptSettings(criterion="agreement"), LABELS, blind, tmp_path, 0, Aids(teacher=said))
    assert "The label is" in tuned.prompt.template
    assert "agreement with the teacher" in tuned.facts["criterion"]


def test_saved_and_loaded_alike(scorer: Made, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path / "work")
    (tmp_path / "out").mkdir()
    tune.save(tuned, tmp_path / "out")
    back = tune.load(tmp_path / "out")
    assert (back.prompt, back.own, back.facts) == (tuned.prompt, tuned.own, tuned.facts)
    assert np.array_equal(back.keys, tuned.keys)
    assert np.allclose(back.scores, tuned.scores, atol=1e-5)


class Scribe:
    """Write a title as the first word of the text tells, better where the prompt asks for it shortly."""

    token_forwards = 0

    def write_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], max_new_tokens: int) -> list[list[str]]:
        return [
            [f"{text.split()[0]} it is" if "Short" in prompt.template else "no idea" for text in texts]
            for prompt in prompts
        ]


def test_a_prompt_that_writes_is_chosen_by_what_is_written(tokenizer: Any, tmp_path: Path) -> None:
    splits = {"train": _examples(20, 1, True), "validation": _examples(100, 2, True)}
    settings = PromptSettings(target="title", demonstrations=0)
    tuned = tune_writing(Scribe(), settings, splits, tmp_path, 0, 8, Aids(tokenizer("bpe", 300)))
    assert "Short title" in tuned.prompt.template
    assert tuned.facts["gain"]["value"] > 0.5
    assert "ROUGE-L" in tuned.facts["criterion"]


def test_a_prompt_that_writes_needs_references(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="needs target texts"):
        tune_writing(Scribe(), PromptSettings(), SPLITS, tmp_path, 0, 8, Aids(tokenizer("bpe", 300)))


def test_what_was_written_is_read_again_and_not_asked_again(tmp_path: Path) -> None:
    class Once:
        calls = 0

        def write(self, requests: Sequence[str], seed: int) -> list[str]:
            self.calls += 1
            return [f"{request} {seed}" for request in requests]

    once = Once()
    first = KeptWriter(once, tmp_path).write(["a", "b"], 1)
    again = KeptWriter(once, tmp_path)
    assert again.write(["a", "b"], 1) == first == ["a 1", "b 1"]
    assert once.calls == 1
    assert again.write(["a", "b"], 2) == ["a 2", "b 2"]
