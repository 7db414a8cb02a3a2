"""Phrase edits, label words, shortening and evolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Ground, Move, Standing
from attar.prompts.moves.evolution import Evolution, mixed_instruction
from attar.prompts.moves.label_words import LabelWords
from attar.prompts.moves.phrases import Phrases
from attar.prompts.moves.shorten import Shorten

WORDS = ("bad", "good")
POOL = tuple((f"text {i}", i % 2) for i in range(20))
PLAIN = TextPrompt("{text}\nMood:", WORDS, name="plain")
TOLD = TextPrompt("{text}\nMood:", WORDS, name="told", instruction="Please read it. Judge it as {options}.")


def _grow(move: Move, *prompts: TextPrompt, count: int = 60, **others: Any) -> list[Child]:
    standings = tuple(Standing(p, 0.5, 32, 3) for p in prompts)
    return move(Ground(standings, np.random.default_rng(0), **others), count)


def test_one_phrase_is_deleted_or_two_are_swapped() -> None:
    prompt = replace(PLAIN, instruction="Read it, then judge it.")
    made = {(c.prompt.instruction, c.prompt.template): c.how for c in _grow(Phrases(Phrases.Settings()), prompt)}
    assert made == {
        ("then judge it.", prompt.template): "'Read it,' deleted",
        ("Read it,", prompt.template): "'then judge it.' deleted",
        (prompt.instruction, "{text}"): "'Mood:' deleted",
        ("then judge it. Read it,", prompt.template): "'Read it,' and 'then judge it.' swapped",
    }


def test_what_another_prompt_says_is_added_and_never_into_the_examples_line() -> None:
    other = TextPrompt("Review: {text}", WORDS, name="other")
    children = _grow(Phrases(Phrases.Settings()), PLAIN, other)
    added = {c.prompt.template for c in children if c.parents == ("plain",) and c.how == "'Review:' added"}
    assert added == {"Review:\n{text}\nMood:", "{text}\nReview: Mood:", "{text}\nMood: Review:"}
    names = [c.prompt.name for c in children]
    assert {"plain~del", "plain~add", "plain~add.2"} <= set(names)


def test_given_words_are_crossed_one_label_at_a_time() -> None:
    given = (("bad", "good"), ("poor", "fine"))
    children = _grow(LabelWords(LabelWords.Settings(cases=False)), PLAIN, words=given)
    made = {c.prompt.words: c.how for c in children}
    assert made == {
        ("poor", "fine"): "label words poor, fine",
        ("poor", "good"): "label word 'poor' instead of 'bad'",
        ("bad", "fine"): "label word 'fine' instead of 'good'",
    }
    assert {c.prompt.forward_id for c in children} == {PLAIN.forward_id}


def test_cases_are_tried_and_two_labels_never_share_a_word() -> None:
    made = {c.prompt.words for c in _grow(LabelWords(LabelWords.Settings()), replace(PLAIN, words=("good", "Good")))}
    assert made == set()  # every other case of the one is the other's word
    made = {c.prompt.words for c in _grow(LabelWords(LabelWords.Settings()), PLAIN)}
    assert made == {("Bad", "good"), ("bad", "Good"), ("Bad", "Good")}


def test_words_that_are_shown_make_another_forward() -> None:
    shown = replace(PLAIN, demonstrations=POOL[:2], name="plain+2")
    ids = {c.prompt.forward_id for c in _grow(LabelWords(LabelWords.Settings()), shown, TOLD)}
    assert len(ids) == 6
    assert all(c.prompt.demonstrations == POOL[:2] for c in _grow(LabelWords(LabelWords.Settings()), shown))


def test_shorter_prompts_are_strictly_shorter() -> None:
    shown = replace(TOLD, demonstrations=POOL[:2], name="told+2")
    ground = Ground((Standing(shown, 0.5, 32, 3),), np.random.default_rng(0))
    children = Shorten(Shorten.Settings())(ground, 60)
    assert all(ground.tokens(c.prompt) < ground.tokens(shown) for c in children)
    hows = {c.how for c in children}
    assert {"demonstration 1 dropped", "demonstration 2 dropped", "all demonstrations dropped"} <= hows
    assert {"'Please read it.' dropped", "'Judge it as' dropped", "'Mood:' dropped"} <= hows
    assert "'Please' dropped" in hows
    assert all("{options}" in c.prompt.instruction for c in children)


def test_no_child_where_the_tokens_do_not_shrink() -> None:
    assert _grow(Shorten(Shorten.Settings()), TOLD, tokens=lambda prompt: 7) == []
    assert _grow(Shorten(Shorten.Settings(fillers=())), TextPrompt("{text}", WORDS)) == []


def test_filler_words_go_together_and_an_instruction_may_go_whole() -> None:
    prompt = replace(PLAIN, instruction="The task. Judge the mood.")
    told = {c.prompt.instruction for c in _grow(Shorten(Shorten.Settings()), prompt)}
    assert {"", "task. Judge mood."} <= told


def test_a_child_has_the_instruction_of_one_and_the_template_of_another() -> None:
    other = TextPrompt("Is it {options}?\n{text}", WORDS, chat=True, name="chat", demonstrations=POOL[:4])
    children = _grow(Evolution(Evolution.Settings()), replace(TOLD, instruction="Judge it."), other)
    assert {(c.prompt.instruction, c.prompt.template, c.prompt.chat) for c in children} == {
        ("Judge it.", PLAIN.template, False),
        ("Judge it.", other.template, True),
    }
    assert {len(c.prompt.demonstrations) for c in children} <= {1, 2, 3}
    assert all(c.parents == ("told", "chat") for c in children)
    assert {c.prompt.name.partition("+")[0] for c in children} == {"told×chat", "chat×told"}


def test_options_are_not_said_twice() -> None:
    other = TextPrompt("Is it {options}?\n{text}", WORDS, name="asked")
    for child in _grow(Evolution(Evolution.Settings()), TOLD, other, PLAIN, pool=POOL):
        assert (child.prompt.instruction + child.prompt.template).count("{options}") <= 1


def test_demonstrations_are_a_sample_of_both_with_the_mean_count_and_one_mutation() -> None:
    one = replace(PLAIN, demonstrations=POOL[:2], name="one")
    two = replace(PLAIN, demonstrations=POOL[6:12], name="two")
    children = _grow(Evolution(Evolution.Settings()), one, two, pool=POOL, most_demonstrations=8)
    sizes = [len(c.prompt.demonstrations) for c in children]
    assert set(sizes) == {3, 4, 5}  # the mean is four
    both = {*one.demonstrations, *two.demonstrations}
    assert all(len(set(c.prompt.demonstrations) - both) <= 1 for c in children)
    kinds = [c.how.removeprefix("crossed; ") for c in children]
    assert {kinds.count(kind) > len(kinds) / 6 for kind in set(kinds)} == {True}
    assert len(set(kinds)) == 3


def test_a_lone_parent_mutates() -> None:
    lone = replace(PLAIN, demonstrations=POOL[:3], name="lone+3")
    children = _grow(Evolution(Evolution.Settings()), lone, pool=POOL)
    assert {c.how for c in children} == {"demonstration added", "demonstration dropped", "demonstrations shuffled"}
    assert all(c.prompt.name.startswith("lone~mut+") and c.parents == ("lone+3",) for c in children)


def test_instructions_mix_by_sentences() -> None:
    first, last = "One. Two. Three. Four.", "Five. Two. Six. Seven."
    assert mixed_instruction(first, last, 0.5) == "One. Two. Six. Seven."
    assert mixed_instruction(first, last, 0.25) == "One. Two. Six. Seven."
    assert mixed_instruction(first, last, 0.0) == last
    assert mixed_instruction(first, last, 1.0) == first
    assert mixed_instruction("", last, 0.9) == last
    assert mixed_instruction(first, "", 0.1) == first
    assert mixed_instruction("Same.", "Same.", 0.5) == "Same."
