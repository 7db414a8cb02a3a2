"""A prompt as plain strings must read as the prompt itself, chat template or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from attar.core.prompt import TextPrompt, cut, encode
from attar.core.reading import MARK, Frame, first_tokens, frame_of, token_ids
from attar.errors import AttarError

SHOWN = (("soft {text} and {options}", 1), ("cheap", 0))
PROMPTS = {
    "running": TextPrompt("Review: {text}\nSentiment:", ("bad", "good")),
    "shown": TextPrompt("Review: {text}\nSentiment:", ("bad", "good"), False, SHOWN, instruction="Is it {options}?"),
    "chat": TextPrompt("Is this {options}? {text} ", ("bad", "good"), True, SHOWN, instruction="Judge."),
    "bare": TextPrompt("{text}", ("bad", "good"), True),
}
TEXTS = [
    "a fine warm jacket that fits well and lasts",
    *("", "a fine warm jacket " * 20, "  both edges \n", "größer 😀😀😀 als {text} und {options}", "<eos> ends"),
]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def words(tokenizer: Callable[[str], Any]) -> Any:
    found = tokenizer("bpe")
    found.chat_template = CHAT
    return found


@pytest.mark.parametrize("name", PROMPTS)
def test_a_frame_reads_as_the_prompt_does(name: str, words: Any) -> None:
    prompt = PROMPTS[name]
    frame = frame_of(words, prompt, 16)
    wanted = [encode(words, prompt, cut(words, text, 16)) for text in TEXTS]
    assert token_ids(words, frame, TEXTS) == wanted
    assert Frame.from_json(frame.to_json()) == frame
    assert frame.trims == (False, False)


@pytest.mark.parametrize("name", ["chat", "bare"])
def test_a_template_that_trims_is_followed(name: str, words: Any) -> None:
    words.chat_template = CHAT.replace("m['content'] }}", "m['content'] | trim }}")
    prompt = PROMPTS[name]
    frame = frame_of(words, prompt, 16)
    assert frame.trims == ((True, True) if name == "bare" else (False, True))
    wanted = [encode(words, prompt, cut(words, text, 16)) for text in TEXTS if text]
    assert token_ids(words, frame, [text for text in TEXTS if text]) == wanted


def test_special_tokens_are_added_to_running_text_alone(tokenizer: Callable[[str], Any]) -> None:
    words = tokenizer("unigram")
    words.chat_template = CHAT
    running, chat = (token_ids(words, frame_of(words, PROMPTS[name], 8), ["fine"])[0] for name in ("running", "bare"))
    assert (running[0], running[-1]) == (words.bos_token_id, words.eos_token_id)
    assert words.bos_token_id not in chat


def test_the_text_alone_is_cut(words: Any) -> None:
    frame = frame_of(words, PROMPTS["shown"], 4)
    short, long = token_ids(words, frame, ["a fine", "a fine warm jacket " * 30])
    tail = words(frame.after, add_special_tokens=False).input_ids
    assert long[-len(tail) :] == short[-len(tail) :] == tail
    assert len(long) < len(short) + 6


def test_nothing_to_read(words: Any) -> None:
    assert token_ids(words, frame_of(words, PROMPTS["running"], 4), []) == []


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        ("no place", False, "it names 0 times"),
        ("{text} or {text}", False, "it names 2 times"),
        ("{text}", True, "chat template shows it 0 times"),
    ],
)
def test_the_text_must_stand_once(template: str, chat: bool, said: str, words: Any) -> None:
    words.chat_template = "{{ messages[0]['content'] | length }}"
    with pytest.raises(AttarError, match=said):
        frame_of(words, TextPrompt(template, ("bad", "good"), chat), 8)


def test_a_chat_needs_a_chat_template(tokenizer: Callable[[str], Any]) -> None:
    with pytest.raises(AttarError, match="Set chat: false"):
        frame_of(tokenizer("bpe"), PROMPTS["chat"], 8)


def test_first_tokens_are_those_of_the_answer(words: Any) -> None:
    for name in ("running", "chat"):
        ids = [words(PROMPTS[name].answer(place), add_special_tokens=False).input_ids[0] for place in (0, 1)]
        assert first_tokens(words, PROMPTS[name]) == ids


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("good", "goods"), "'good' and 'goods' begin with the same token"),
        (("same", "same"), "begin with the same token"),
        ((), "has no label words"),
    ],
)
def test_label_words_must_begin_differently(chosen: tuple[str, ...], said: str, words: Any) -> None:
    with pytest.raises(AttarError, match=re.escape(said)):
        first_tokens(words, TextPrompt("{text}:", chosen))


def test_a_word_without_a_token(words: Any) -> None:
    with pytest.raises(AttarError, match="has no token"):
        first_tokens(words, TextPrompt("{text}", ("", "good"), True))


def test_the_mark_is_no_character_of_texts() -> None:
    assert not any(MARK[0] in text for text in TEXTS)
