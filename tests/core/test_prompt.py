from __future__ import annotations

import json
from dataclasses import replace

from attar.core.prompt import TextPrompt

FULL = TextPrompt("Say {options}: {text}\nA:", ("bad", "good"), True, (("ok", 1),), (0.5, -0.25), "mine")


def test_json_round_trip() -> None:
    assert TextPrompt.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert TextPrompt.from_json(replace(FULL, calibration=None).to_json()).calibration is None


def test_render_shows_demonstrations_then_the_example() -> None:
    plain = replace(FULL, chat=False)
    assert plain.render("x") == "Say bad, good: ok\nA: good\n\nSay bad, good: x\nA:"


def test_messages_alternate_roles_and_answer_without_a_space() -> None:
    assert FULL.messages("x") == [
        {"role": "user", "content": "Say bad, good: ok\nA:"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "Say bad, good: x\nA:"},
    ]


def test_text_that_looks_like_a_placeholder_is_left_alone() -> None:
    assert TextPrompt("{text} is", ("a", "b")).fill("{options} and {text}") == "{options} and {text} is"


def test_forward_id_is_what_the_model_sees() -> None:
    free = TextPrompt("{text} is", ("bad", "good"))
    assert free.forward_id == replace(free, words=("Bad", "Good"), name="x", calibration=(1.0, 0.0)).forward_id
    assert free.forward_id != replace(free, chat=True).forward_id
    assert FULL.forward_id != replace(FULL, words=("Bad", "Good")).forward_id
    assert free.forward_id != replace(free, demonstrations=(("a", 0),)).forward_id
