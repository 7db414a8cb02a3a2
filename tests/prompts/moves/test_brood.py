from __future__ import annotations

from collections import Counter

import numpy as np

from attar.core.prompt import TextPrompt
from attar.core.prompting import Ground, Standing
from attar.prompts.moves.brood import Brood, child_name, draw_parents, fresh_name

BASE = TextPrompt("{text}\nMood:", ("bad", "good"), name="mood", calibration=(0.1, -0.1))


def _ground(*prompts: TextPrompt, **others: int) -> Ground:
    standings = tuple(Standing(prompt, 0.5, 32, 3) for prompt in prompts)
    return Ground(standings, np.random.default_rng(0), **others)  # type: ignore[arg-type]


def test_a_child_loses_its_parents_calibration_and_gets_a_new_name() -> None:
    ground = _ground(BASE)
    brood = Brood(ground, 2)
    assert brood.add(TextPrompt("{text}\nTone:", BASE.words, name="mood", calibration=(1.0, 0.0)), "why", *_two(ground))
    (child,) = brood.children
    assert (child.prompt.name, child.prompt.calibration, child.parents, child.how) == ("mood.2", None, ("mood",), "why")


def _two(ground: Ground) -> tuple[Standing, Standing]:
    return ground.standings[0], ground.standings[0]


def test_known_broken_and_long_prompts_are_not_taken() -> None:
    ground = _ground(BASE, most_tokens=3, most_demonstrations=1)
    brood = Brood(ground, 9)
    shown = (("a", 0), ("b", 1))
    assert not brood.add(BASE.calibrated(None), "same but for the calibration")
    assert not brood.add(TextPrompt("no place:", BASE.words), "broken")
    assert not brood.add(TextPrompt("{text}{text}", BASE.words), "broken")
    assert not brood.add(TextPrompt("{text} one two three four", BASE.words), "too long")
    assert not brood.add(TextPrompt("{text}", BASE.words, demonstrations=shown), "too many demonstrations")
    assert brood.add(TextPrompt("{text}", BASE.words), "new")
    assert not brood.add(TextPrompt("{text}", BASE.words, name="other"), "there already")
    assert brood.add(TextPrompt("{text}", ("poor", "fine")), "same forward, other words")
    assert len(brood.children) == 2


def test_a_full_brood_takes_no_more_and_draws_no_more_parents() -> None:
    brood = Brood(_ground(BASE), 1)
    assert brood.add(TextPrompt("{text}", BASE.words), "new")
    assert not brood.add(TextPrompt("{text}\nTone:", BASE.words), "new too")
    assert list(brood.parents()) == []
    assert Brood(_ground(BASE), 0).full
    assert list(Brood(_ground(), 3).parents()) == []


def test_parents_are_drawn_by_rank_and_differ() -> None:
    ground = _ground(*(TextPrompt("{text}", BASE.words, name=name) for name in "abc"))
    drawn = Counter(draw_parents(ground)[0].prompt.name for _ in range(3000))
    assert [round(drawn[name] / 500) for name in "abc"] == [3, 2, 1]
    pairs = [draw_parents(ground, 2) for _ in range(50)]
    assert all(first.prompt.name < second.prompt.name for first, second in pairs)
    assert len(draw_parents(_ground(BASE), 2)) == 1


def test_names_stay_short_over_generations() -> None:
    name = "mood"
    for mark in ("del", "", "swap", "", "add") * 4:
        name = fresh_name(child_name(name, mark, 4), {child_name(name, mark, 4)})
    assert name == "mood~add+4.2"
    assert child_name("mood.2", "del", 0) == "mood~del"
    assert fresh_name("new", {"old"}) == "new"
    assert fresh_name("a", {"a", "a.2"}) == "a.3"
    assert child_name("mood+2", "", 0) == "mood"
