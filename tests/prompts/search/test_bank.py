"""Race prompts whose scores are made up, so that the best is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from attar.core.examples import UNKNOWN
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.search.bank import BankSearch, Reading, mutual_information

WORDS = ("bad", "good")
LABELS = np.random.Generator(np.random.PCG64(0)).integers(0, 2, 200)


def _prompt(name: str) -> TextPrompt:
    return TextPrompt(f"{name}: {{text}} is", WORDS, name=name)


PROMPTS = [_prompt(name) for name in "abcdefgh"]
SKILL = dict(zip("abcdefgh", (0.55, 0.6, 0.62, 0.95, 0.65, 0.7, 0.5, 0.6), strict=True))


def _scores(prompt: TextPrompt, count: int = 200, tilt: float = 0.0) -> np.ndarray:
    """Return logits that are right as often as the prompt's skill says; ``tilt`` prefers the first word."""
    skill = SKILL[prompt.name.split("+")[0]] + 0.02 * ("+" in prompt.name)
    random = np.random.Generator(np.random.PCG64(ord(prompt.name[0]) + len(prompt.name)))
    said = np.where(random.random(count) < skill, LABELS[:count], 1 - LABELS[:count])
    return np.eye(2)[said] * 2.0 + np.array([tilt, 0.0])


def _nothing(prompt: TextPrompt) -> list[TextPrompt]:
    return []


def _search(
    prompts: Sequence[TextPrompt] = PROMPTS,
    labels: np.ndarray = LABELS,
    calibrations: Sequence[str] = ("none",),
    demonstrate: Callable[[TextPrompt], Sequence[TextPrompt]] = _nothing,
    block: int = 25,
) -> BankSearch:
    return BankSearch(prompts, lambda prompt: [prompt.words], labels, calibrations, block, demonstrate)


def _run(search: BankSearch, tilt: float = 0.0) -> list[tuple[str, int, int]]:
    asked = []
    while (question := search.ask()) is not None:
        prompt, first, last = question
        asked.append((prompt.name, first, last))
        search.tell(prompt, first, last, _scores(prompt, len(LABELS), tilt)[first:last])
    return asked


def test_it_finds_the_best_and_spends_less_than_all() -> None:
    search = _search()
    asked = _run(search)
    assert search.winner().prompt.name == "d"
    assert search.winner().n == 200
    assert sum(last - first for _, first, last in asked) < 0.5 * 8 * 200


def test_no_example_is_scored_twice() -> None:
    seen = [(name, place) for name, first, last in _run(_search()) for place in range(first, last)]
    assert len(seen) == len(set(seen))


def test_elimination_keeps_the_leader_of_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    search, leaders = _search(), []
    eliminate = search._eliminate

    def watched() -> None:
        leader = max(search._alive, key=lambda name: search.best(name).rank)
        eliminate()
        leaders.append(leader in search._alive)

    monkeypatch.setattr(search, "_eliminate", watched)
    _run(search)
    assert leaders
    assert all(leaders)


def test_the_block_doubles_and_two_fifths_go_on() -> None:
    search = _search()
    counts: dict[int, set[str]] = {}
    for name, _, last in _run(search):
        counts.setdefault(last, set()).add(name)
    assert len(counts[25]) == 8
    sizes = [len(names) for _, names in sorted(counts.items())]
    assert sizes[1] <= 4
    assert sizes == sorted(sizes, reverse=True)
    assert max(counts) == 200


def test_the_table_says_how_each_left() -> None:
    search = _search()
    _run(search)
    table = search.table()
    assert [left for _, left in table].count("won") == 1
    assert table[0][0].prompt.name == "d"
    assert {reading.prompt.name for reading, _ in table} == set("abcdefgh")
    assert all(left == "won" or left.startswith(("raced out after", "lost")) for _, left in table)


def test_without_labels_the_criterion_is_mutual_information() -> None:
    labels = np.full(60, UNKNOWN)
    search = _search(PROMPTS[:3], labels)
    sharp = {"a": 0.1, "b": 4.0, "c": 1.0}
    while (question := search.ask()) is not None:
        prompt, first, last = question
        search.tell(prompt, first, last, np.eye(2)[np.arange(first, last) % 2] * sharp[prompt.name])
    winner = search.winner()
    assert "mutual information" in search.criterion
    assert winner.prompt.name == "b"
    assert len(winner.right) == 0
    p = np.exp(4.0) / (np.exp(4.0) + 1)
    assert winner.score == pytest.approx(np.log(2) + p * np.log(p) + (1 - p) * np.log(1 - p), abs=1e-6)


def test_one_unknown_label_makes_it_label_free() -> None:
    labels = LABELS.copy()
    labels[7] = UNKNOWN
    assert "without gold labels" in _search(labels=labels).criterion


def test_mutual_information_is_zero_for_equal_answers_and_log_n_at_most() -> None:
    assert mutual_information(np.log(np.array([[0.9, 0.1]] * 5))) == pytest.approx(0.0, abs=1e-9)
    assert mutual_information(np.eye(4) * 50) == pytest.approx(np.log(4), abs=1e-6)


def test_calibration_wins_where_a_word_is_preferred() -> None:
    search = _search(PROMPTS[3:4], calibrations=("none", "batch"))
    _run(search, tilt=3.0)
    winner = search.winner()
    assert winner.calibration == "batch"
    assert winner.prompt.calibration is not None
    assert winner.score > 0.9
    assert np.exp(search.scores_of(winner)).sum(axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert (search.scores_of(winner).argmax(1) == LABELS).mean() == winner.score


def test_a_resumed_race_equals_a_fresh_one() -> None:
    fresh = _search()
    asked = _run(fresh)
    resumed, told = _search(), 0
    known = {(name, first, last): _scores(_prompt(name))[first:last] for name, first, last in asked[: len(asked) // 2]}
    while (question := resumed.ask()) is not None:
        prompt, first, last = question
        told += (prompt.name, first, last) in known
        scores = known.get((prompt.name, first, last))
        resumed.tell(prompt, first, last, _scores(prompt)[first:last] if scores is None else scores)
    assert told == len(asked) // 2
    assert resumed.state() == fresh.state()
    assert resumed.winner().prompt == fresh.winner().prompt


def test_state_is_json() -> None:
    search = _search()
    _run(search)
    state = search.state()
    assert json.loads(json.dumps(state)) == state
    assert set(state["alive"]) | set(state["left"]) == set("abcdefgh")


def test_demonstrations_of_the_two_best_join_after_the_first_round() -> None:
    shown: list[str] = []

    def demonstrate(prompt: TextPrompt) -> list[TextPrompt]:
        shown.append(prompt.name)
        return [replace(prompt, demonstrations=(("x", 0), ("y", 1)), name=f"{prompt.name}+2")]

    search = _search(demonstrate=demonstrate)
    _run(search)
    assert len(shown) == 2
    assert "d" in shown
    assert search.winner().prompt.name in ("d", "d+2")
    assert {"d+2"} <= {reading.prompt.name for reading, _ in search.table()}


def test_demonstrations_use_the_words_that_were_read_best() -> None:
    """The first set of words may share its first token; a variant with it could not be read at all."""
    shown: list[TextPrompt] = []

    def readings(prompt: TextPrompt) -> list[tuple[str, ...]]:
        return [("Bad", "Good")]

    def demonstrate(prompt: TextPrompt) -> list[TextPrompt]:
        shown.append(prompt)
        return [replace(prompt, demonstrations=(("x", 0),), name=prompt.name + "+1")]

    search = BankSearch(PROMPTS[2:5], readings, LABELS, ("batch",), 25, demonstrate)
    _run(search)
    assert search.words == ("Bad", "Good")
    assert all(prompt.words == ("Bad", "Good") and prompt.calibration is None for prompt in shown)


def test_equal_prompts_are_not_dropped_by_the_test_alone() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0] * 10)
    reading = Reading(PROMPTS[0], "none", 0.75, 0.0, right, 40)
    search = _search()
    assert not search._surely_worse(reading, reading)
    assert search._surely_worse(replace(reading, right=np.zeros(40)), replace(reading, right=np.ones(40)))
    assert search._surely_worse(replace(reading, right=right * (np.arange(40) < 20)), reading)
    one = np.zeros(40)
    one[0] = 1
    assert not search._surely_worse(replace(reading, right=right - one), reading)


def test_scores_out_of_order_are_refused() -> None:
    search = _search()
    prompt, first, last = search.ask() or (PROMPTS[0], 0, 0)
    with pytest.raises(ValueError, match="must follow those known"):
        search.tell(prompt, first + 1, last, np.zeros((last - first - 1, 2)))
    with pytest.raises(ValueError, match="must follow those known"):
        search.tell(prompt, first, last, np.zeros((last - first, 3)))


def test_no_examples_is_a_users_mistake() -> None:
    with pytest.raises(AttarError, match="needs validation examples"):
        _search(labels=np.array([], int))


@pytest.mark.parametrize("count", [1, 2, 25])
def test_fewer_examples_than_a_block(count: int) -> None:
    search = _search(labels=LABELS[:count])
    asked = _run(search)
    assert [(first, last) for _, first, last in asked] == [(0, count)] * 8
    assert search.winner().n == count
