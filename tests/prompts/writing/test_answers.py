from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.prompts.writing.answers import Rules, accepted, readings, refusal

PLAIN = "Judge the mood of the review."
EXAMPLE = "the zip broke after one week, very bad quality, would not buy it again"

WRAPPED = [
    PLAIN,
    f"  {PLAIN}\n\n",
    f'"{PLAIN}"',
    f"“{PLAIN}”",
    f"**{PLAIN}**",
    f"1. {PLAIN}",
    f"- {PLAIN}",
    f"Instruction: {PLAIN}",
    f"**New Instruction:** {PLAIN}",
    f"### Improved prompt:\n{PLAIN}",
    f'Instruction 1: "{PLAIN}"',
    f"```\n{PLAIN}\n```",
    f"```text\n{PLAIN}",
    f"Sure! Here's an improved instruction:\n\n{PLAIN}",
    f"Sure, I can help.\nHere is one: {PLAIN}",
    f"Certainly! Here are two instructions:\n1. {PLAIN}\n2. Look at what the buyer says.",
    f'Here is the instruction:\n"{PLAIN}"\n\nThis instruction is better because it is plain.',
    f"{PLAIN}\n\nExplanation: it names the mood.",
    f"<instruction>{PLAIN}</instruction>",
    f"I looked at the failures.\n<prompt>\n{PLAIN}\n</prompt>\nHope it helps.",
    f"<think>They want one sentence. {EXAMPLE}</think>\n{PLAIN}",
    f'{{"instruction": "{PLAIN}"}}',
    f'```json\n{{"score": 3, "new_instruction": "{PLAIN}", "why": "it is short and plain"}}\n```',
    f'["{PLAIN}", "Look at what the buyer says."]',
    f'{{"instruction": "{PLAIN}',
]

NONSENSE = [
    "",
    "   \n\t ",
    "positive",
    "Positive.",
    '""',
    "```\n```",
    "{}",
    "[]",
    "[1, 2, 3]",
    "[" * 100_000,
    '{"a":' * 100_000,
    "Please provide the text that is to be judged.",
    "This is a task. I will judge any text that you send.",
    "0.812: Judge it better than all others.",
    "null",
    '{"label": 1}',
    "<think>I should first think about what",
    "1.\n2.\n3.",
    "-----------------------------",
    "| text | label |\n|---|---|\n| 12 | 1 |\n| 14 | 0 |",
    "Text: a fine warm jacket\nAnswer: good",
    "I love this dress, it fits so well!",
    "Sorry, that is against the rules.",
    "As an AI language model, nothing can be judged here.",
    "Judge the review [insert review here] by its words.",
    "Judge the review {text} by its words.",
    "Judge <text> by its words please.",
    "Judge ____ by its words please.",
    "good good good good good good good good good good",
    "Judge it well. Judge it well. Judge it well.",
    f"Say that {EXAMPLE} is bad.",
    "judge the mood, by  the words",
    "word " * 200,
    "\x00\x01 \x02 \ufffd\ufffd",
]


@pytest.mark.parametrize("answer", WRAPPED)
def test_an_instruction_is_found_in_its_wrapping(answer: str) -> None:
    assert accepted(answer, Rules()) == PLAIN


@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_refused(answer: str) -> None:
    rules = Rules(shown=(EXAMPLE,), old=("Judge the mood by the words.",))
    assert accepted(answer, rules) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Judge it", "too short"),
        ("Judge it " + "and look " * 100, "too long"),
        ("a {hole} to fill", "a hole to fill"),
        ("Answer with one of {options}, please.", ""),
        ("Say if it is good: look for praise, thanks and smiles.", ""),
        ("请判断评论的情感", ""),
        ("Решите, доволен ли покупатель.", ""),
        ("You are a critic. Read the text; say good or bad. Mind irony.\nAnswer with one word.", ""),
        ('Write it as JSON: {"mood": ...}', "a hole to fill"),
        ("12 34 56 78 and 90", "no plain text"),
        ("Judge it now!", "known"),
    ],
)
def test_why_a_text_is_refused(text: str, why: str) -> None:
    assert refusal(text, Rules(old=("judge  it NOW",))) == why


def test_a_short_example_counts_where_the_whole_of_it_is_repeated() -> None:
    rules = Rules(shown=("so soft and warm", "fine"))
    assert refusal("Say that it is so soft and warm.", rules) == "repeats what was shown"
    assert refusal("Say that it is fine and warm.", rules) == ""


def test_a_longer_instruction_of_several_lines_stays_whole() -> None:
    text = "Judge the review.\n1. Praise means good.\n2. Complaints mean bad."
    assert accepted(text, Rules()) == text


def test_what_is_too_long_falls_back_to_its_first_paragraph() -> None:
    assert accepted(f"{PLAIN}\n\n{'More and other words follow here. ' * 40}", Rules()) == PLAIN


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("What a great challenge that would be.", "not about the task"),
        ("It is what it is, say so.", "not about the task"),
        ("Judge how positively buyers speak.", ""),
        ("Read reviews with care.", ""),
        ("Was it no or something else?", ""),
        ("Решите, доволен ли покупатель: no?", ""),
    ],
)
def test_an_instruction_shares_a_word_with_what_is_said_of_the_task(text: str, why: str) -> None:
    assert refusal(text, Rules(about=("Say whether it is a positive review.", "", "no"))) == why


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(answer: str) -> None:
    rules = Rules(shown=(EXAMPLE,), old=(PLAIN,))
    found = accepted(answer, rules)
    assert found is None or (found in readings(answer) and refusal(found, rules) == "" and found.strip() == found)
