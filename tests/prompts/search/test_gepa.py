from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.search.gepa import GepaAdapter, GepaSettings, optimize_with_gepa

WORDS = ("bad", "good")
PROMPT = TextPrompt("{text}\nMood:", WORDS, name="own", instruction="Say {options}.", calibration=(0.1, -0.1))
TRAIN = [(f"text {i}", i % 2) for i in range(12)]
VALIDATION = [(f"other {i}", i % 2) for i in range(10)]


class Tiny:
    """Know the right answer the better, the more of three words the instruction holds."""

    token_forwards = 0

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.scored = 0

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        self.scored += len(texts)
        right = 0.35 + 0.2 * sum(word in prompt.instruction for word in ("mood", "irony", "fit"))
        gold = np.array([int(text.split()[-1]) % 2 for text in texts])
        p = np.where(np.arange(2) == gold[:, None], right, 1 - right)
        return np.full_like(p, np.nan) if self.broken else np.log(p)

    def score_all(self, prompts: Any, texts: Any, words: Any) -> list[np.ndarray]:
        raise NotImplementedError

    def tokens(self, prompt: TextPrompt) -> int:
        return len(prompt.render("").split())


class Scripted:
    def __init__(self, *said: str) -> None:
        self.said = said
        self.read: list[str] = []
        self.seeds: list[int] = []

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        self.read += requests
        self.seeds.append(seed)
        return [self.said[min(len(self.read), len(self.said)) - 1] for _ in requests]


def _search(writer: Scripted, scorer: Tiny | None = None, prompt: TextPrompt = PROMPT, **settings: Any) -> TextPrompt:
    pytest.importorskip("gepa")
    settings = {"calls": 150, "minibatch": 4, **settings}
    return optimize_with_gepa(scorer or Tiny(), prompt, TRAIN, VALIDATION, writer, GepaSettings(**settings), seed=3)


def test_the_best_instruction_is_found_and_all_else_stays() -> None:
    writer = Scripted("```\nSay bad, good by the mood.\n```", "```\nMind irony, mood and fit.\n```", "```\nNo.\n```")
    scorer = Tiny()
    found = _search(writer, scorer)
    assert found.instruction == "Mind irony, mood and fit."
    assert (found.template, found.words, found.name, found.calibration) == (PROMPT.template, WORDS, "own~gepa", None)
    assert 150 <= scorer.scored < 150 + 4 + 4 + 10
    assert len(set(writer.seeds)) == len(writer.seeds)
    assert "Say bad, good." in writer.read[0]
    assert writer.read[0].count("Wrong: the right answer is") == 4


def test_the_same_seed_finds_the_same() -> None:
    said = ("```\nSay {options} by the mood.\n```", "```\nMood.\n```")
    assert _search(Scripted(*said)) == _search(Scripted(*said))
    assert _search(Scripted("```\nName the mood: bad, good.\n```")).instruction == "Name the mood: {options}."


@pytest.mark.parametrize("nonsense", ["", "```", "good", "{}", "na " * 4000])
def test_nonsense_leaves_the_prompt_as_it_is(nonsense: str) -> None:
    assert _search(Scripted(nonsense)) is PROMPT


def test_an_instruction_beyond_the_limit_is_never_scored() -> None:
    long = "mood irony fit " * 40
    assert _search(Scripted(f"```\n{long}\n```"), most_tokens=50) is PROMPT


def test_scores_that_are_no_numbers_count_as_wrong() -> None:
    assert _search(Scripted("```\nBy the mood.\n```"), Tiny(broken=True)) is PROMPT


def test_time_ends_the_search() -> None:
    writer = Scripted("```\nBy the mood.\n```")
    assert _search(writer, calls=10**6, seconds=0.05).words == WORDS


def test_the_adapter_gives_what_gepa_asks_for() -> None:
    pytest.importorskip("gepa")
    adapter = GepaAdapter(Tiny(), PROMPT, 100)
    batch = adapter.evaluate(TRAIN[:3], {"instruction": "by the mood"}, capture_traces=True)
    assert batch.scores == pytest.approx([0.55] * 3)
    assert batch.outputs == ["bad", "good", "bad"]
    assert adapter.evaluate(TRAIN[:3], {"instruction": "x"}).trajectories is None
    records = adapter.make_reflective_dataset({}, batch, ["instruction"])["instruction"]
    assert [record["Feedback"] for record in records] == ["Right."] * 3
    assert records[1]["Inputs"] == {"text": "text 1"}


def test_what_is_missing_is_said() -> None:
    pytest.importorskip("gepa")
    with pytest.raises(AttarError, match="got 2, 0 and 1"):
        optimize_with_gepa(Tiny(), PROMPT, [], VALIDATION[:1], Scripted("x"))
    with pytest.raises(AttarError, match="got 0, 1 and 1"):
        optimize_with_gepa(Tiny(), TextPrompt("{text}", ()), TRAIN[:1], VALIDATION[:1], Scripted("x"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name="gepa")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(AttarError, match=r"The search 'gepa' needs the library 'gepa'.*pip install 'attar\[gepa\]'"):
        optimize_with_gepa(Tiny(), PROMPT, TRAIN, VALIDATION, Scripted("x"))
