"""Race prompts whose scores are made up, so that the best is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.core.examples import UNKNOWN
from attar.core.prompt import TextPrompt
from attar.core.prompting import Ask, Child, Ground, Standing
from attar.errors import AttarError
from attar.prompts.search.criteria import CRITERIA, Aim, choose_criterion
from attar.prompts.search.judges import LabelJudge
from attar.prompts.search.race import RaceSearch
from attar.prompts.settings import PromptSettings
from attar.settings import Settings

WORDS = ("bad", "good")
COUNT = 300
GOLD = np.random.Generator(np.random.PCG64(0)).integers(0, 2, COUNT)
RACE, HELD = 200, 100
SKILL = dict(zip("abcdefgh", (0.55, 0.6, 0.62, 0.95, 0.65, 0.7, 0.5, 0.6), strict=True))


def _prompt(name: str, words: tuple[str, ...] = WORDS) -> TextPrompt:
    return TextPrompt(f"{name}: {{text}} is", words, name=name)


PROMPTS = [_prompt(name) for name in "abcdefgh"]


def _scores(prompt: TextPrompt, tilt: float = 0.0) -> np.ndarray:
    """Return log-probabilities that are right as often as the prompt's skill says; ``tilt`` prefers the first word."""
    skill = SKILL[prompt.template[0]] + 0.03 * prompt.template.count("!")
    random = np.random.Generator(np.random.PCG64(sum(map(ord, prompt.template))))
    said = np.where(random.random(COUNT) < skill, GOLD, 1 - GOLD)
    return (np.eye(2)[said] * 2.0 + np.array([tilt, 0.0]) - 5.0).astype(np.float32)


class Exclaim:
    """Make prompts better by a mark."""

    Settings: ClassVar[type[Settings]] = Settings
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        best = [standing.prompt for standing in ground.standings[:count]]
        return [Child(replace(p, template="d!" + p.template[1:], name=f"{p.name}!"), (p.name,), "marked") for p in best]


def _search(
    prompts: Sequence[TextPrompt] = PROMPTS,
    gold: np.ndarray = GOLD,
    moves: dict[str, Any] | None = None,
    calibrations: Sequence[str] = ("none",),
    criterion: str = "auto",
    held: int = HELD,
    **settings: Any,
) -> RaceSearch:
    aims = {"race": Aim(gold[:RACE]), "held out": Aim(gold[RACE : RACE + held])}
    texts = [f"text {i}" for i in range(RACE)]
    chosen = choose_criterion(criterion, Aim(gold))
    judge = LabelJudge(texts, aims, lambda p: [p.words], calibrations, chosen, prompts)

    def ground(standings: tuple[Standing, ...], call: str) -> Ground:
        return Ground(standings, np.random.Generator(np.random.PCG64(len(call))))

    tokens = {prompt.name: 10 * place for place, prompt in enumerate(prompts)}
    return RaceSearch(
        prompts, judge, PromptSettings(block=25, **settings), moves or {}, ground, lambda p: tokens.get(p.name, 99)
    )


def _run(search: RaceSearch, tilt: float = 0.0, asks: int = 10_000, seconds: float = 1.0) -> list[Ask]:
    asked: list[Ask] = []
    while len(asked) < asks and (ask := search.ask()) is not None:
        asked.append(ask)
        start = RACE if ask.split == "held out" else 0
        rows = [_scores(prompt, tilt)[start + ask.first : start + ask.last] for prompt in ask.prompts]
        search.tell(ask, rows, spent={"seconds": seconds * (ask.last - ask.first) * len(rows)})
    return asked


def _scored(asked: Sequence[Ask]) -> int:
    return sum((ask.last - ask.first) * len(ask.prompts) for ask in asked)


def test_the_best_is_found_and_proven_for_less_than_scoring_all() -> None:
    search = _search()
    asked = _run(search)
    outcome = search.outcome()
    assert outcome.kept.name == "d"
    assert outcome.proven
    assert len(outcome.gain) == HELD
    assert outcome.gain.mean() > 0.2
    assert _scored(asked) < 0.75 * len(PROMPTS) * RACE


def test_no_example_is_scored_twice_and_the_race_never_sees_what_is_held_out() -> None:
    asked = _run(_search(moves={"exclaim": Exclaim()}))
    seen = [(p.forward_id, a.split, i) for a in asked for p in a.prompts for i in range(a.first, a.last)]
    assert len(seen) == len(set(seen))
    judged = {p.name for a in asked if a.split == "held out" for p in a.prompts}
    assert len(judged) == 2
    assert "a" in judged
    assert [a.split for a in asked][-1] == "held out"
    assert all(a.last <= RACE for a in asked if a.split == "race")


def test_moves_make_better_prompts_and_the_table_says_where_from() -> None:
    search = _search([p for p in PROMPTS if p.name != "d"], moves={"exclaim": Exclaim()})
    _run(search)
    assert search.outcome().kept.name.endswith("!")
    entry, reading = search.table()[0]
    assert reading is not None
    assert entry.left == "won"
    assert entry.how == "marked"
    assert entry.generation >= 1
    assert entry.parents


def test_equal_prompts_are_no_gain_and_the_own_one_is_kept() -> None:
    same = [replace(_prompt("a"), name=f"a{i}", template=f"a: {{text}} is{'.' * i}") for i in range(6)]
    search = _search(same)
    fixed = _scores(_prompt("a"))
    while (ask := search.ask()) is not None:
        start = RACE if ask.split == "held out" else 0
        search.tell(ask, [fixed[start + ask.first : start + ask.last]] * len(ask.prompts))
    assert not search.outcome().proven
    assert search.outcome().kept == same[0]
    assert search.outcome().why.startswith("no gain")


def test_luck_is_rarely_called_a_gain() -> None:
    claims = 0
    for seed in range(200):
        random = np.random.Generator(np.random.PCG64(seed))
        search = _search()
        while (ask := search.ask()) is not None:
            size = (ask.last - ask.first, 2)
            search.tell(ask, [random.normal(size=size).astype(np.float32) for _ in ask.prompts])
        claims += search.outcome().proven
    assert claims <= 10  # 5 % of 200


def test_the_same_scores_told_again_lead_to_the_same_place() -> None:
    search = _search(moves={"exclaim": Exclaim()})
    asked = _run(search)
    again = _search(moves={"exclaim": Exclaim()})
    _run(again, asks=len(asked) // 2)
    third = _search(moves={"exclaim": Exclaim()})
    assert _run(third, asks=len(asked) // 2) == asked[: len(asked) // 2]
    assert json.dumps(third.state()) == json.dumps(again.state())
    _run(third)
    assert third.outcome().kept == search.outcome().kept


def test_without_gold_the_surest_and_most_varied_answers_win() -> None:
    search = _search(gold=np.full(COUNT, UNKNOWN))
    said = np.eye(2)[GOLD]
    while (ask := search.ask()) is not None:
        first, last = ((RACE if ask.split == "held out" else 0) + place for place in (ask.first, ask.last))
        sure = {"c": 3.0}
        search.tell(ask, [said[first:last] * sure.get(p.template[0], 0.5) for p in ask.prompts])
    assert search.judge.criterion == "mutual_information"
    assert search.outcome().kept.name == "c"


def test_a_budget_of_nothing_keeps_the_own_prompt_and_asks_nothing() -> None:
    search = _search(budget={"seconds": 0})
    assert search.ask() is None
    assert search.outcome().kept == PROMPTS[0]
    assert "budget was spent" in search.outcome().why


@pytest.mark.parametrize("seconds", [150, 300, 600, 900])
def test_a_budget_is_kept_and_what_is_known_is_used(seconds: int) -> None:
    search = _search(moves={"exclaim": Exclaim()}, budget={"seconds": seconds})
    asked = _run(search)
    first = _scored(asked[:1])
    assert search.spent["seconds"] <= max(seconds, first)
    assert search.outcome().why


def test_scores_that_are_no_numbers_are_refused() -> None:
    search = _search()
    ask = search.ask()
    assert ask is not None
    with pytest.raises(AttarError, match="nan, which is no score"):
        search.tell(ask, [np.full((ask.last - ask.first, 2), np.nan, np.float32) for _ in ask.prompts])


def test_scores_of_another_question_are_refused() -> None:
    search = _search()
    ask = search.ask()
    assert ask is not None
    with pytest.raises(ValueError, match="asked last"):
        search.tell(replace(ask, last=ask.last + 1), [])


def test_calibration_mends_a_preference() -> None:
    search = _search(calibrations=("none", "batch"))
    _run(search, tilt=3.0)
    assert search.outcome().kept.calibration is not None
    plain = _search()
    _run(plain, tilt=3.0)
    assert plain.outcome().kept == PROMPTS[0]


def test_the_recipes_calibration_is_that_of_its_own_prompt() -> None:
    search = _search(PROMPTS[:1], calibrations=("batch",), calibration="batch")
    _run(search)
    assert search.outcome().kept.calibration is not None
    assert search.outcome().why == "no gain: the recipe's own prompt won"


def test_of_equals_the_shortest_wins() -> None:
    worse, long, short = _prompt("a"), _prompt("d"), replace(_prompt("d"), template="d: {text}", name="short")
    search = _search([worse, long, short])
    search._tokens = lambda prompt: {"a": 9, "d": 50, "short": 3}[prompt.name]
    fixed = {"a": _scores(worse), "d": _scores(long)}
    while (ask := search.ask()) is not None:
        first, last = ((RACE if ask.split == "held out" else 0) + place for place in (ask.first, ask.last))
        search.tell(ask, [fixed[p.template[0]][first:last] for p in ask.prompts])
    assert search.outcome().winner.name == "short"


def test_without_held_out_examples_nothing_is_proven() -> None:
    search = _search(held=0)
    _run(search)
    assert not search.outcome().proven
    assert search.outcome().kept.name == "d"
    assert search.outcome().why.startswith("not proven")


def test_other_words_read_the_same_forward_pass() -> None:
    class Swap:
        Settings: ClassVar[type[Settings]] = Settings
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, ground: Ground, count: int) -> list[Child]:
            prompt = ground.standings[0].prompt
            return [Child(replace(prompt, words=prompt.words[::-1], name="swapped"), (prompt.name,), "swapped")]

    wrong = [_prompt("a", WORDS[::-1])]
    search = _search([*wrong, _prompt("b")], moves={"swap": Swap()})
    asked = _run(search)
    assert {p.name for a in asked for p in a.prompts} <= {"a", "b"}


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prefers_what_is_right_and_sure(name: str) -> None:
    gold = np.array([0, 1, 0, 1])
    sure = np.log(np.where(np.eye(2)[gold] > 0, 0.9, 0.1))
    unsure = np.log(np.full((4, 2), 0.5) + np.where(np.eye(2)[gold] > 0, -0.01, 0.01))
    aim = Aim(gold, np.log(np.where(np.eye(2)[gold] > 0, 0.95, 0.05)))
    assert CRITERIA[name](sure, aim).mean() > CRITERIA[name](unsure, aim).mean()
    assert CRITERIA[name](sure, aim).shape == (4,)


@pytest.mark.parametrize("name", ["agreement", "kl"])
def test_a_criterion_without_its_teacher_is_refused(name: str) -> None:
    with pytest.raises(AttarError, match="compares with a teacher"):
        choose_criterion(name, Aim(GOLD))


def test_a_criterion_without_gold_is_refused() -> None:
    with pytest.raises(AttarError, match="needs gold labels"):
        choose_criterion("accuracy", Aim(np.full(3, UNKNOWN)))
    assert choose_criterion("auto", Aim(np.full(3, UNKNOWN), np.zeros((3, 2)))) == "kl"
