"""What every move promises, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.core.prompt import TextPrompt
from attar.core.prompting import Ground, Move, Standing
from attar.prompts.moves.demonstrations import Demonstrations
from attar.prompts.moves.evolution import Evolution
from attar.prompts.moves.label_words import LabelWords
from attar.prompts.moves.phrases import Phrases
from attar.prompts.moves.shorten import Shorten

MOVES: list[Callable[[], Move]] = [
    lambda: Demonstrations(Demonstrations.Settings()),
    lambda: Phrases(Phrases.Settings()),
    lambda: LabelWords(LabelWords.Settings()),
    lambda: Shorten(Shorten.Settings()),
    lambda: Evolution(Evolution.Settings()),
]
every_move = pytest.mark.parametrize("make", MOVES, ids=["demonstrations", "phrases", "words", "shorten", "evolution"])

WORDS = ("bad", "good")
POOL = tuple((f"text {'so ' * (i % 9)}{i}", i % 2) for i in range(40))
OPTIONED = "You are a critic. Read the review, then judge it as {options}."
PROMPTS = (
    TextPrompt("{text}\n\nThe mood of this review is", WORDS, name="statement", calibration=(0.5, -0.5)),
    TextPrompt("Review: {text}\nMood:", WORDS, name="told", instruction=OPTIONED),
    TextPrompt("What is the mood: {options}? One word.\n\n{text}", WORDS, chat=True, name="chat"),
    TextPrompt("Review: {text}\nMood:", WORDS, demonstrations=POOL[:3], name="plain+3", instruction="Judge it now."),
    TextPrompt("{text}", WORDS, name="null"),
)


def _ground(*prompts: TextPrompt, seed: int = 0, **others: Any) -> Ground:
    standings = tuple(Standing(prompt, 0.5, 32, 3) for prompt in prompts)
    rest = {"pool": POOL, "labels": ("neg", "pos"), "words": (WORDS, ("poor", "fine"))} | others
    return Ground(standings, np.random.default_rng(seed), **rest)


@every_move
def test_the_same_ground_gives_the_same_children(make: Callable[[], Move]) -> None:
    once, again = (make()(_ground(*PROMPTS, seed=3), 8) for _ in range(2))
    assert once == again
    assert len(once) == 8
    assert make()(_ground(*PROMPTS, seed=4), 8) != once


@every_move
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), first=st.integers(0, 4), stand=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_children_are_new_named_whole_and_within_the_limits(
    make: Callable[[], Move], seed: int, count: int, first: int, stand: int
) -> None:
    prompts = (PROMPTS[first:] + PROMPTS[:first])[:stand]
    ground = _ground(*prompts, seed=seed, most_tokens=45, most_demonstrations=3)
    children = make()(ground, count)
    made = [child.prompt for child in children]
    assert len(made) <= count
    assert len({p.name for p in (*prompts, *made)}) == len(prompts) + len(made)
    assert len({(p.forward_id, p.words) for p in (*prompts, *made)}) == len(prompts) + len(made)
    options = {(p.instruction + p.template).count("{options}") for p in prompts}
    for child in children:
        prompt = child.prompt
        assert prompt.template.count("{text}") == 1
        assert "{text}" not in prompt.instruction
        assert (prompt.instruction + prompt.template).count("{options}") in options
        assert prompt.template == prompt.template.rstrip()
        assert len(prompt.demonstrations) <= 3
        assert len({text for text, _ in prompt.demonstrations}) == len(prompt.demonstrations)
        assert ground.tokens(prompt) <= 45
        assert prompt.calibration is None
        assert len(set(prompt.words)) == 2
        assert child.how
        assert child.parents
        assert set(child.parents) <= {p.name for p in prompts}
        assert len(prompt.name) <= 30


@every_move
@pytest.mark.parametrize("pool", [(), POOL[:1], POOL[:2], tuple(row for row in POOL if row[1] == 0)])
def test_a_small_pool_gives_fewer_children_and_ends(
    make: Callable[[], Move], pool: tuple[tuple[str, int], ...]
) -> None:
    known = set(pool) | {row for prompt in PROMPTS for row in prompt.demonstrations}
    for child in make()(_ground(*PROMPTS, pool=pool), 50):
        assert set(child.prompt.demonstrations) <= known


@every_move
def test_nothing_comes_of_nothing(make: Callable[[], Move]) -> None:
    assert make()(_ground(), 5) == []
    assert make()(_ground(*PROMPTS), 0) == []
    assert make()(_ground(*PROMPTS, most_tokens=-1), 5) == []
    assert make()(_ground(TextPrompt("{text}", (), name="null"), pool=(), labels=(), words=()), 5) == []


@every_move
def test_tasks_that_write_keep_answers_in_words(make: Callable[[], Move]) -> None:
    pool = tuple((f"article {i}", f"title {i}") for i in range(9))
    base = TextPrompt("Article: {text}\nTitle:", (), name="plain", instruction="Write a short title.")
    shown = replace(base, demonstrations=pool[:2], name="plain+2")
    for child in make()(_ground(base, shown, pool=pool, labels=(), words=()), 12):
        assert set(child.prompt.demonstrations) <= set(pool)
        assert child.prompt.words == ()
        assert "title" in child.prompt.render("x").lower() or not child.prompt.demonstrations


@every_move
def test_a_chat_stays_a_chat(make: Callable[[], Move]) -> None:
    chat = PROMPTS[2]
    shown = replace(chat, demonstrations=POOL[:2], instruction="Judge it now.", name="chat+2")
    children = make()(_ground(chat, shown), 6)
    assert children
    assert all(child.prompt.chat for child in children)
