from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.teachers.endpoint_labels import LabelReader, check_words, filled, label_logprobs, stands_for, vote_logprobs
from attar.teachers.endpoint_replies import Reply, TokenChoices, read_reply

WORDS = ("bad", "good")


def _reply(*top: tuple[str, float], text: str = "") -> Reply:
    choices = tuple((token, math.log(p)) for token, p in top)
    return Reply("m", text, "length", (TokenChoices("x", -1.0, choices),), (1, 1))


def _vote(text: str) -> Reply:
    return Reply("m", text, "stop", None, (1, 1))


def test_spellings_of_a_word_are_added_up_and_normalized_over_the_labels() -> None:
    reader = LabelReader(TextPrompt("{text}", WORDS))
    scores = reader.scores([[_reply((" good", 0.3), ("Good", 0.15), ("▁bad", 0.05), (" the", 0.4))]])
    assert np.exp(scores[0]) == pytest.approx([0.05 / 0.5, 0.45 / 0.5], abs=1e-6)  # by hand
    assert scores.dtype == np.float32
    assert reader.counts == {"missing_labels": 0, "no_label": 0, "unread_votes": 0}


def test_calibration_is_subtracted_before_the_last_normalization() -> None:
    bias = (math.log(0.2), math.log(0.8))
    reader = LabelReader(TextPrompt("{text}", WORDS, calibration=bias))
    scores = reader.scores([[_reply(("good", 0.8), ("bad", 0.2))]])
    assert np.exp(scores[0]) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_missing_label_gets_half_the_smallest_probability_seen_and_is_counted() -> None:
    reader = LabelReader(TextPrompt("{text}", WORDS))
    scores = reader.scores([[_reply(("good", 0.9), (" the", 0.02))]])
    assert np.exp(scores[0]) == pytest.approx([0.01 / 0.91, 0.9 / 0.91], abs=1e-6)  # by hand
    assert reader.counts["missing_labels"] == 1
    assert filled([None], [("a", -1.0), ("b", -3.0)]) == [pytest.approx(-3.0 - math.log(2))]


def test_an_answer_without_a_label_is_even_whatever_the_calibration() -> None:
    reader = LabelReader(TextPrompt("{text}", WORDS, calibration=(-0.1, -2.3)))
    ended = Reply("m", "", "stop", (), (1, 0))  # the model ended at once
    scores = reader.scores([[_reply((" the", 0.9))], [ended], [_reply(("good", 0.9), ("bad", 0.05))]])
    assert np.exp(scores[:2]) == pytest.approx(np.full((2, 2), 0.5))
    assert reader.counts == {"missing_labels": 4, "no_label": 2, "unread_votes": 0}


def test_many_answers_without_any_label_are_the_prompts_fault() -> None:
    reader = LabelReader(TextPrompt("{text}", WORDS))
    silent = [[_reply((" the", 0.9), text=" the")]] * 8
    assert reader.scores(silent[:7]).shape == (7, 2)
    with pytest.raises(AttarError, match=r"None of 8 answers names a label \(bad, good\); they begin with 'the'"):
        reader.scores(silent)


def test_no_replies_give_no_rows() -> None:
    assert LabelReader(TextPrompt("{text}", WORDS)).scores([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("good", "Good"), "begins the label word"),
        (("good", "goodness"), "begins the label word"),
        (("a", " "), "is empty"),
    ],
)
def test_words_that_begin_alike_are_refused_before_any_call(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(AttarError, match=match):
        check_words(words)


def test_labels_that_share_their_first_token_are_refused_when_it_is_seen() -> None:
    top = [(" pos", math.log(0.5)), (" neg", math.log(0.2))]
    with pytest.raises(AttarError, match="'possible', 'positive' share their first token ' pos'"):
        label_logprobs(top, ["possible", "positive", "negative"])


def test_a_shared_token_without_weight_is_left_out() -> None:
    seen = [(" positive", math.log(0.5)), (" possible", math.log(0.2)), (" pos", math.log(0.005))]
    assert label_logprobs(seen, ["possible", "positive"]) == pytest.approx([math.log(0.2), math.log(0.5)])
    alone = [(" the", math.log(0.9)), (" pos", math.log(0.005))]
    assert label_logprobs(alone, ["possible", "positive"]) == [None, None]


@pytest.mark.parametrize(
    ("token", "word", "expected"),
    [
        (" angry", "angry", True),
        ("ĠAngry", "angry", True),
        ("angry.", "angry", True),
        ("angrily", "angry", False),
        (" ang", "angry", True),
        (" a", "angry", False),  # mostly an article
        ("1", "1", True),
        ("10", "1", False),
        ("很", "很好", True),
        ("", "angry", False),
        (" ", "angry", False),
    ],
)
def test_which_tokens_stand_for_a_word(token: str, word: str, expected: bool) -> None:
    assert stands_for(token, word) is expected


def test_votes_are_shares_with_one_vote_spread_over_the_labels() -> None:
    logs, unread = vote_logprobs(["Bad", "bad!", "good", "badly", "neither"], WORDS)
    assert np.exp(logs) == pytest.approx([2.5 / 4, 1.5 / 4])  # by hand: 2 and 1 of 3 votes, and a half each
    assert unread == 2
    reader = LabelReader(TextPrompt("{text}", WORDS))
    scores = reader.scores([[_vote("bad"), _vote("bad")], [_vote("hm"), _vote("")]])
    assert np.exp(scores) == pytest.approx(np.array([[2.5 / 3, 0.5 / 3], [0.5, 0.5]]), abs=1e-6)
    assert reader.counts == {"missing_labels": 0, "no_label": 1, "unread_votes": 2}


CHAT = (
    '{"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 1}, '
    '"choices": [{"message": {"content": "good"}, "finish_reason": "length", "logprobs": %s}]}'
)


def test_chat_and_plain_answers_read_alike() -> None:
    chat = (
        CHAT % '{"content": [{"token": "good", "logprob": -0.5, "top_logprobs": [{"token": "good", "logprob": -0.5}]}]}'
    )
    plain = (
        '{"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 1}, "choices": [{"text": "good", '
        '"finish_reason": "length", "logprobs": {"tokens": ["good"], "token_logprobs": [-0.5], '
        '"top_logprobs": [{"good": -0.5}]}}]}'
    )
    expected = Reply("m", "good", "length", (TokenChoices("good", -0.5, (("good", -0.5),)),), (7, 1))
    assert read_reply(chat.encode()) == read_reply(plain.encode()) == expected


def test_a_reply_comes_back_from_the_ledger_without_its_usage() -> None:
    reply = read_reply((CHAT % '{"content": [{"token": "g", "logprob": -0.5, "top_logprobs": []}]}').encode())
    assert Reply.from_json(reply.to_json()).tokens == reply.tokens
    assert Reply.from_json(reply.to_json()).text == "good"


@pytest.mark.parametrize("absent", ["null", "{}", '{"content": null}'])
def test_absent_log_probabilities_are_told_from_an_empty_answer(absent: str) -> None:
    assert read_reply((CHAT % absent).encode()).tokens is None
    assert read_reply((CHAT % '{"content": []}').encode()).tokens == ()


def test_choices_of_probability_0_are_left_out() -> None:
    tops = '[{"token": "a", "logprob": -Infinity}, {"token": "b", "logprob": -9999.0}, {"token": "c", "logprob": null}]'
    reply = read_reply((CHAT % f'{{"content": [{{"token": "g", "logprob": -0.5, "top_logprobs": {tops}}}]}}').encode())
    assert reply.tokens == (TokenChoices("g", -0.5, ()),)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"error": {"message": "overloaded"}}',
        b"\xff\xfe",
        (CHAT % '{"content": [{"token": "g", "logprob": NaN}]}').encode(),
        (
            CHAT % '{"content": [{"token": "g", "logprob": -1, "top_logprobs": [{"token": "g", "logprob": 5}]}]}'
        ).encode(),
        (CHAT % "3").encode(),
    ],
    ids=range(12),
)
def test_what_is_no_completion_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not the JSON of a completion"):
        read_reply(raw)


def test_a_reply_may_name_no_model_and_count_no_tokens() -> None:
    reply: Any = read_reply(b'{"choices": [{"message": {"content": null}, "finish_reason": null}]}')
    assert (reply.model, reply.text, reply.usage, reply.tokens) == (None, "", None, None)


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "{}",
        "[]",
        "3",
        '{"total_tokens": 6}',
        '{"prompt_tokens": 5}',
        '{"prompt_tokens": 5, "completion_tokens": null}',
        '{"prompt_tokens": null, "completion_tokens": 1}',
        '{"prompt_tokens": -1, "completion_tokens": 1}',
        '{"prompt_tokens": 5.5, "completion_tokens": 1}',
        '{"prompt_tokens": true, "completion_tokens": 1}',
    ],
)
def test_an_answer_is_of_use_whatever_its_count_of_tokens(usage: str) -> None:
    reply = read_reply(f'{{"choices": [{{"text": "good"}}], "usage": {usage}}}'.encode())
    assert (reply.text, reply.usage) == ("good", None)
