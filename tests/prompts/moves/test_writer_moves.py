"""The moves that ask a writer: what it reads, what becomes of its answers, and of nonsense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Failure, Ground, Move, Standing
from attar.errors import AttarError
from attar.prompts.moves.instructions import Instructions
from attar.prompts.moves.merge import Merge
from attar.prompts.moves.paraphrase import Paraphrase
from attar.prompts.moves.reflection import Reflection

WORDS = ("bad", "good")
TASK = "Say whether a review of clothes is bad or good."
POOL = tuple((f"a jacket that lasted {i} weeks and then lost all of its buttons", i % 2) for i in range(8))
FAILURES = tuple(Failure(f"the sleeves of number {i} are far too long for me", "bad", "good") for i in range(6))
FIRST = TextPrompt(
    "Review: {text}\nMood:", WORDS, demonstrations=POOL[:3], name="first", instruction="Judge it as {options}."
)
SECOND = TextPrompt(
    "Review: {text}\nMood:", WORDS, demonstrations=POOL[4:5], name="second", instruction="Read the review with care."
)
BARE = TextPrompt("{text}\n\nThe mood of this review is", WORDS, name="bare", calibration=(0.5, -0.5))
MOVES: list[type[Any]] = [Instructions, Reflection, Paraphrase, Merge]
every_move = pytest.mark.parametrize("make", MOVES, ids=["instructions", "reflection", "paraphrase", "merge"])

NONSENSE = ["", "good", "[]", "I love it!", "Text: so soft\nAnswer: good", "na na na na na na na na na", "🙂" * 30]


class Scripted:
    """Answer with what a function of the request and its number makes."""

    def __init__(self, said: Callable[[str, int], str]) -> None:
        self.said = said
        self.read: list[str] = []
        self.seeds: list[int] = []

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        self.seeds.append(seed)
        answers = []
        for request in requests:
            answers.append(self.said(request, len(self.read)))
            self.read.append(request)
        return answers


def _helpful(request: str, number: int) -> str:
    return f"Sure! Here it is:\nJudge review {number} as bad, good."


def _ground(writer: Any, *prompts: TextPrompt, seed: int = 0, **others: Any) -> Ground:
    asked = prompts or (FIRST, SECOND, BARE)
    standings = tuple(Standing(prompt, 0.9 - i / 10, 32, 3, FAILURES) for i, prompt in enumerate(asked))
    rest = {"pool": POOL, "labels": ("neg", "pos"), "task": TASK} | others
    return Ground(standings, np.random.default_rng(seed), writer=writer, **rest)


@every_move
def test_a_helpful_writer_makes_as_many_prompts_as_wanted(make: type[Any]) -> None:
    writer = Scripted(_helpful)
    ground = _ground(writer)
    children: list[Child] = make()(ground, 5)
    assert len(children) == 5
    assert len({child.prompt.name for child in children} | {"first", "second", "bare"}) == 8
    known = {standing.prompt.forward_id for standing in ground.standings}
    assert len(known | {child.prompt.forward_id for child in children}) == 8
    for child in children:
        assert child.prompt.calibration is None
        assert set(child.parents) <= {"first", "second", "bare"}
        assert child.prompt.template.count("{text}") == 1
        assert "{text}" not in child.prompt.instruction
    assert len(writer.read) == 5
    assert make.needs == {"writer"}


@every_move
def test_the_same_ground_gives_the_same_children(make: type[Any]) -> None:
    once, again, other = (make()(_ground(Scripted(_helpful), seed=seed), 6) for seed in (3, 3, 4))
    assert once == again
    assert once != other


@every_move
@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_no_prompt_and_no_error(make: type[Any], answer: str) -> None:
    writer = Scripted(lambda request, number: answer)
    move: Move = make(make.Settings(whole=1.0) if make is Paraphrase else None)
    assert move(_ground(writer, FIRST, SECOND), 4) == []
    assert len(writer.read) == 8  # asked once more, then left


@every_move
def test_a_writer_that_repeats_its_request_or_the_prompt_is_of_no_use(make: type[Any]) -> None:
    move: Move = make(make.Settings(whole=1.0) if make is Paraphrase else None)
    assert move(_ground(Scripted(lambda request, number: request), FIRST, SECOND), 4) == []
    assert move(_ground(Scripted(lambda request, number: "Judge it as bad, good!"), FIRST, SECOND), 4) == []


@every_move
def test_what_was_refused_is_asked_once_more(make: type[Any]) -> None:
    writer = Scripted(lambda request, number: _helpful(request, number) if number in (1, 4, 5) else "???")
    assert len(make()(_ground(writer), 4)) == 3
    assert len(writer.read) == 4 + 3
    assert len(set(writer.seeds)) == 2


@every_move
def test_prompts_beyond_the_limit_of_tokens_are_left_out(make: type[Any]) -> None:
    assert make()(_ground(Scripted(_helpful), most_tokens=4), 4) == []


@every_move
def test_nothing_stands_nothing_is_asked(make: type[Any]) -> None:
    writer = Scripted(_helpful)
    assert make()(Ground((), np.random.default_rng(0), writer=writer), 4) == []
    assert make()(_ground(writer), 0) == []
    assert writer.read == []


@every_move
def test_without_a_writer_there_is_an_error(make: type[Any]) -> None:
    with pytest.raises(AttarError, match=r"move '\w+' needs a writer, and none is given"):
        make()(_ground(None), 2)


def test_instructions_show_task_examples_answers_and_history() -> None:
    writer = Scripted(_helpful)
    children = Instructions(Instructions.Settings(examples=2, characters=30))(_ground(writer), 3)
    for request in writer.read:
        assert TASK in request
        assert "The answer is one of: bad, good." in request
        assert request.count("Text: a jacket") == request.count("…\nAnswer:") == 2
        assert "0.800: Read the review with care.\n0.900: Judge it as bad, good." in request  # the best last
    assert {child.prompt.instruction for child in children} == {f"Judge review {i} as {{options}}." for i in range(3)}
    first = next(child for child in children if child.parents == ("first",))
    assert first.prompt.demonstrations == FIRST.demonstrations
    assert first.prompt.template == FIRST.template


def test_instructions_show_failures_where_gold_is_not_used() -> None:
    writer = Scripted(_helpful)
    Instructions()(_ground(writer, pool=()), 1)
    assert "Text: the sleeves of number 0" in writer.read[0]
    assert "Given answer: good\nRight answer: bad" in writer.read[0]


def test_instructions_need_neither_examples_nor_a_task_nor_labels() -> None:
    writer = Scripted(lambda request, number: f"Write title {number} of the story.")
    prompt = TextPrompt("Story: {text}\nTitle:", ())
    ground = Ground((Standing(prompt, 0.1, 8, 3),), np.random.default_rng(0), writer=writer)
    assert len(Instructions()(ground, 2)) == 2
    assert "one of" not in writer.read[0]


@pytest.mark.parametrize("move", [Instructions(), Reflection()], ids=["instructions", "reflection"])
@pytest.mark.parametrize("leak", [POOL[0][0], FAILURES[0].text, f"bad when {FAILURES[0].text} and good when"])
def test_an_answer_that_holds_a_shown_example_is_refused(move: Move, leak: str) -> None:
    shown = leak == POOL[0][0] and isinstance(move, Instructions)
    writer = Scripted(lambda request, number: f"Judge reviews like {leak} as bad.")
    standings = (Standing(FIRST, 0.9, 32, 3, FAILURES[:1]),)
    ground = replace(_ground(writer, pool=POOL[:1] if shown else ()), standings=standings)
    assert len(move(ground, 2)) == (leak == POOL[0][0] and not shown)


def test_an_instruction_about_something_else_is_refused() -> None:
    writer = Scripted(lambda request, number: "What a great challenge to consider for everyone.")
    assert Instructions()(_ground(writer), 3) == []


def test_reflection_shows_the_prompt_and_its_failures() -> None:
    writer = Scripted(_helpful)
    children = Reflection(Reflection.Settings(failures=2))(_ground(writer, FIRST), 2)
    for request in writer.read:
        assert "The assistant was told:\nJudge it as bad, good." in request
        assert request.count("Text: the sleeves") == 2
    assert [child.how for child in children] == ["mended by 2 failures"] * 2


def test_reflection_without_failures_has_nothing_to_mend() -> None:
    writer = Scripted(_helpful)
    ground = _ground(writer)
    clean = tuple(replace(standing, failures=()) for standing in ground.standings)
    assert Reflection()(replace(ground, standings=clean), 3) == []
    one = (clean[0], ground.standings[1], clean[2])
    assert {child.parents for child in Reflection()(replace(ground, standings=one), 3)} == {("second",)}


def test_a_phrase_is_said_anew_in_its_place() -> None:
    prompt = TextPrompt(
        "Review: {text}\nMood:", WORDS, name="long", instruction="Read the review first, then judge it as {options}."
    )
    writer = Scripted(lambda request, number: f'"Study number {number} of all."')
    children = Paraphrase(Paraphrase.Settings(whole=0.0))(_ground(writer, prompt), 6)
    texts = {child.prompt.instruction for child in children}
    assert texts
    assert all("{options}" in text and text != prompt.instruction for text in texts)
    assert all(child.prompt.template == prompt.template for child in children)
    firsts = [text for text in texts if text.endswith("then judge it as {options}.")]
    assert all(text.startswith("Study number ") and " of all, then" in text for text in firsts)


def test_a_phrase_of_the_template_may_be_said_anew() -> None:
    writer = Scripted(lambda request, number: f"this feeling {number} is")
    (child,) = Paraphrase()(_ground(writer, BARE), 1)
    assert child.prompt.template == "{text}\n\nThis feeling 0 is"
    assert writer.read[0].count("The mood of this review is") == 1


def test_what_has_no_phrase_is_not_paraphrased() -> None:
    writer = Scripted(_helpful)
    assert Paraphrase()(_ground(writer, TextPrompt("{text}", WORDS, name="null")), 3) == []
    assert writer.read == []


def test_merging_takes_demonstrations_of_both() -> None:
    writer = Scripted(_helpful)
    children = Merge()(_ground(writer), 4)
    for child in children:
        assert child.parents == ("first", "second")
        assert len(child.prompt.demonstrations) == 2
        assert set(child.prompt.demonstrations) <= {*FIRST.demonstrations, *SECOND.demonstrations}
    assert "First: Judge it as bad, good.\n\nSecond: Read the review with care." in writer.read[0]


def test_merging_needs_two_instructions() -> None:
    writer = Scripted(_helpful)
    assert Merge()(_ground(writer, FIRST, BARE), 3) == []
    assert Merge()(_ground(writer, FIRST, replace(FIRST, name="same", demonstrations=())), 3) == []
    assert writer.read == []
