from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.bank import PromptSettings
from attar.stages import tune
from attar.stages.tune import Demonstrations, tune_prompt

LABELS = ["bad", "good"]


class Killed(Exception):
    """Stand for the kill of the process."""


def _examples(count: int, seed: int = 0) -> Examples:
    labels = np.random.Generator(np.random.PCG64(seed)).integers(0, 2, count)
    inputs = [f"{LABELS[label]} thing number {i}" for i, label in enumerate(labels)]
    return Examples(np.arange(count) + 1000 * seed, inputs, labels)


SPLITS = {"train": _examples(30, 1), "validation": _examples(120, 2)}


@pytest.fixture
def scorer(tokenizer: Any) -> Any:
    """Return a scorer of made-up scores: chat templates answer best; it counts its calls and may die."""

    class Made:
        def __init__(self) -> None:
            self.tokenizer = tokenizer("bpe", 500)
            self.tokenizer.chat_template = None
            self.asked: list[tuple[str, int]] = []
            self.token_forwards = 0
            self.dies_at: int | None = None

        def score(self, prompt: TextPrompt, texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
            if len(self.asked) + 1 == self.dies_at:
                raise Killed
            self.asked.append((prompt.name, len(texts)))
            self.token_forwards += 1
            skill = 0.95 if prompt.name.startswith("opinion") else 0.7
            out = np.zeros((len(texts), len(words)), np.float32)
            for row, text in enumerate(texts):
                draw = np.random.Generator(np.random.PCG64(sum(map(ord, text + prompt.name)))).random()
                right = text.split()[0] if draw < skill else {"bad": "good", "good": "bad"}[text.split()[0]]
                out[row] = [2.0 * (word.lower() == right) + 0.1 * word.islower() for word in words]
            return out

    return Made()


def _tune(scorer: Any, work: Path, **settings: Any) -> tune.Tuned:
    work.mkdir(parents=True, exist_ok=True)
    return tune_prompt(scorer, PromptSettings(**settings), LABELS, SPLITS, work, seed=0)


def test_the_best_template_wins_and_the_table_explains(scorer: Any, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path)
    assert tuned.prompt.name.startswith("opinion")
    assert tuned.facts["tried"][0]["left"] == "won"
    assert "accuracy" in tuned.facts["criterion"]
    row = tuned.facts["tried"][0]
    assert row["low"] <= row["score"] <= row["high"]
    assert row["n"] == 120
    assert tuned.keys.tolist() == SPLITS["validation"].keys.tolist()
    assert (tuned.scores.argmax(1) == SPLITS["validation"].labels).mean() == pytest.approx(row["score"])


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_a_killed_race_ends_as_an_undisturbed_one_and_asks_nothing_again(
    dies_at: int, scorer: Any, tmp_path: Path
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


def test_without_search_the_recipes_own_is_taken_and_calibrated(scorer: Any, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path, search="none", calibration="batch", template="Say: {text} is")
    assert tuned.prompt.template == "Say: {text} is"
    assert tuned.prompt.calibration is not None
    assert tuned.own.calibration is None
    assert len(scorer.asked) >= 1
    assert {name for name, _ in scorer.asked} == {"recipe"}


def test_words_that_begin_alike_are_refused(scorer: Any, tmp_path: Path) -> None:
    words = {"bad": "zq1", "good": "zq2"}
    with pytest.raises(AttarError, match="begin with the same token"):
        _tune(scorer, tmp_path, words=words)


def test_saved_and_loaded_alike(scorer: Any, tmp_path: Path) -> None:
    tuned = _tune(scorer, tmp_path / "work")
    (tmp_path / "out").mkdir()
    tune.save(tuned, tmp_path / "out")
    back = tune.load(tmp_path / "out")
    assert (back.prompt, back.own, back.facts) == (tuned.prompt, tuned.own, tuned.facts)
    assert np.array_equal(back.keys, tuned.keys)
    assert np.allclose(back.scores, tuned.scores, atol=1e-5)


def test_demonstrations_take_each_label_in_turn_and_repeat_nothing() -> None:
    train = SPLITS["train"]
    shown = [v.demonstrations for v in Demonstrations(train, 2, 4, seed=0)(TextPrompt("{text}", ("bad", "good")))]
    assert [len(one) for one in shown] == [2, 4]
    for one in shown:
        assert [label for _, label in one] == [0, 1] * (len(one) // 2)
        assert len(set(one)) == len(one)
        assert all(text in train.inputs for text, _ in one)
    again = Demonstrations(train, 2, 4, seed=0)(TextPrompt("{text}", ("bad", "good")))
    assert [v.demonstrations for v in again] == shown


@pytest.mark.parametrize("most", [0, 4])
def test_no_demonstrations_without_gold(most: int) -> None:
    train = SPLITS["train"] if most == 0 else SPLITS["train"].without_labels()
    assert Demonstrations(train, 2, most, 0)(TextPrompt("{text}", ("a", "b"))) == []


def test_without_gold_the_race_has_another_criterion(scorer: Any, tmp_path: Path) -> None:
    splits = {name: split.without_labels() for name, split in SPLITS.items()}
    assert (splits["validation"].labels == UNKNOWN).all()
    tuned = tune_prompt(scorer, PromptSettings(), LABELS, splits, tmp_path, 0)
    assert "mutual information" in tuned.facts["criterion"]
    assert "low" not in tuned.facts["tried"][0]
