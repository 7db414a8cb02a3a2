from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground, Standing
from attar.prompts.moves.demonstrations import Demonstrations, Draw, reordered

BASE = TextPrompt("{text}\nMood:", ("bad", "good"), name="mood")
POOL = tuple((f"a text of {i}", i % 2) for i in range(30))


def _ground(*prompts: TextPrompt, seed: int = 0, pool: Any = POOL, **others: Any) -> Ground:
    return Ground(tuple(Standing(p, 0.5, 32, 3) for p in prompts), np.random.default_rng(seed), pool, **others)


def _children(*prompts: TextPrompt, count: int = 40, characters: int = 300, **others: Any) -> list[Child]:
    return Demonstrations(Demonstrations.Settings(characters=characters))(_ground(*prompts, **others), count)


def _showing(n: int) -> TextPrompt:
    return TextPrompt(BASE.template, BASE.words, demonstrations=POOL[:n], name=f"mood+{n}")


def test_the_first_set_shows_each_label_in_turn_and_begins_the_larger() -> None:
    small, large = (child.prompt for child in _children(BASE, count=2))
    assert [len(small.demonstrations), len(large.demonstrations)] == [2, 4]
    assert large.demonstrations[:2] == small.demonstrations
    assert Counter(label for _, label in small.demonstrations) == {0: 1, 1: 1}
    assert Counter(label for _, label in large.demonstrations) == {0: 2, 1: 2}
    assert [small.name, large.name] == ["mood+2", "mood+4"]


def test_with_more_labels_than_demonstrations_every_label_is_drawn_at_some_time() -> None:
    pool = tuple((f"text {i}", i % 8) for i in range(80))
    letters = TextPrompt(BASE.template, tuple("abcdefgh"), name="letters")
    shown = [child.prompt.demonstrations for child in _children(letters, pool=pool)]
    assert all(len({label for _, label in row}) == len(row) for row in shown)
    assert {label for row in shown for _, label in row} == set(range(8))


def test_a_first_set_that_is_too_long_is_cut() -> None:
    sets = [child.prompt.demonstrations for child in _children(BASE, most_tokens=16)]
    assert sets
    assert max(len(row) for row in sets) == 2  # six words each, and one of the prompt's own


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_each_change_is_one_step(n: int) -> None:
    before = _showing(n)
    kinds = set()
    for child in _children(before, most_demonstrations=4):
        after = child.prompt.demonstrations
        kinds.add(child.how.split()[-1])
        if child.how.endswith("added"):
            assert after[:-1] == before.demonstrations
        elif child.how.endswith("dropped"):
            assert set(after) < set(before.demonstrations)
            assert len(after) == n - 1
        elif child.how.endswith("replaced"):
            assert sum(old != new for old, new in zip(before.demonstrations, after, strict=True)) == 1
        else:
            assert sorted(after) == sorted(before.demonstrations)
            assert after != before.demonstrations
    assert kinds == {"dropped", "replaced"} | ({"added"} if n < 4 else set()) | ({"reordered"} if n > 1 else set())


def test_an_added_example_is_of_the_label_shown_least() -> None:
    before = TextPrompt(BASE.template, BASE.words, demonstrations=(POOL[0], POOL[2]), name="uneven")
    added = [child.prompt.demonstrations[-1] for child in _children(before) if child.how.endswith("added")]
    assert added
    assert {label for _, label in added} == {1}


def test_siblings_share_most_of_their_beginning() -> None:
    before = _showing(8)
    children = _children(before, most_demonstrations=8, seed=1)
    rendered = [c.prompt.render("") for c in children if c.how != "demonstrations reordered"]
    shared = [_shared(text, before.render("")) / len(before.render("")) for text in rendered]
    assert len(rendered) >= 8
    assert np.mean(shared) > 0.6
    assert len({c.how for c in children}) > 4  # yet other places change too


def _shared(one: str, other: str) -> int:
    """Return the characters that two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_long_examples_are_left_out_and_short_ones_preferred() -> None:
    pool = tuple((f"{i:02}" + "x" * 10 * i, i % 2) for i in range(40))
    texts = [text for c in _children(BASE, pool=pool, characters=200) for text, _ in c.prompt.demonstrations]
    assert max(map(len, texts)) <= 200
    assert np.mean([len(text) for text in texts]) < 0.9 * np.mean([len(t) for t, _ in pool if len(t) <= 200])
    assert _children(BASE, pool=pool, characters=1) == []


def test_answers_in_words_count_for_the_length() -> None:
    pool = (("short", "x" * 300), ("short too", "title"))
    shown = [c.prompt.demonstrations for c in _children(TextPrompt("{text}", ()), pool=pool, characters=50)]
    assert shown == [(("short too", "title"),)]


def test_a_text_that_comes_twice_is_shown_once() -> None:
    draw = Draw(_ground(pool=(("same", 0), ("same", 1), ("other", 0))), 300)
    assert len(draw.several(9)) == 2


def test_no_demonstrations_are_made_where_none_are_wanted() -> None:
    assert _children(BASE, most_demonstrations=0) == []


def test_another_order_is_another_order() -> None:
    random = np.random.default_rng(0)
    assert {reordered(POOL[:2], random) for _ in range(10)} == {(POOL[1], POOL[0])}
    assert reordered(POOL[:1], random) == POOL[:1]


def test_settings_refuse_no_characters() -> None:
    with pytest.raises(ValidationError):
        Demonstrations.Settings(characters=0)
