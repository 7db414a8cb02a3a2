from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from attar.errors import AttarError
from attar.prompts.bank import LABELING, WRITING, bank_prompts, own_prompt, phrase, word_variants
from attar.prompts.settings import PromptSettings

LABELS = ["bad", "good"]


def test_every_template_names_the_text_once_and_ends_without_a_space() -> None:
    for bank in (LABELING, WRITING):
        assert len({row.name for row in bank}) == len(bank)
        for row in bank:
            assert row.template.count("{text}") == 1
            assert "{text}" not in row.instruction
            assert row.template == row.template.rstrip()


def test_a_bank_without_labels_is_for_writing() -> None:
    prompts = bank_prompts(PromptSettings(input="review", target="title"), (), chat=True)
    assert prompts[0].words == ()
    assert any(prompt.instruction == "Write a title for the review." for prompt in prompts)
    assert not any("{options}" in prompt.template + prompt.instruction for prompt in prompts)


def test_the_bank_begins_with_the_recipes_own_and_repeats_nothing() -> None:
    settings = PromptSettings(input="review", target="sentiment", templates=("Mine: {text} ->",))
    prompts = bank_prompts(settings, LABELS, chat=True)
    assert prompts[0] == own_prompt(settings, LABELS)
    assert prompts[1].name == "own-1"
    assert len({prompt.forward_id for prompt in prompts}) == len(prompts)
    assert all("{input}" not in p.template and "{Target}" not in p.template for p in prompts)
    assert {p.words for p in prompts if "{options}" in p.template + p.instruction} == {("bad", "good"), ("Bad", "Good")}


def test_no_chat_prompts_without_a_chat_template() -> None:
    assert not any(prompt.chat for prompt in bank_prompts(PromptSettings(), LABELS, chat=False))
    assert any(prompt.chat for prompt in bank_prompts(PromptSettings(), LABELS, chat=True))


def test_own_prompt_that_is_in_the_bank_comes_once() -> None:
    settings = PromptSettings(template="{text}\nIn short, the {input} is")
    assert [p.name for p in bank_prompts(settings, LABELS, False)].count("in-short") == 0


def test_phrase_capitalizes() -> None:
    assert phrase("{Input} {input} {Target}", PromptSettings(input="mail", target="Topic")) == "Mail mail Topic"


def test_words_of_the_recipe_come_first() -> None:
    settings = PromptSettings(words={"good": ("great", "yes"), "bad": ("awful", "no")})
    assert word_variants(settings, LABELS) == [("awful", "great"), ("no", "yes"), ("Awful", "Great")]
    capital = PromptSettings(words={"good": "Yes", "bad": "No"})
    assert word_variants(capital, LABELS) == [("No", "Yes")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"good": "yes"}, "must name every label once"),
        ({"good": "yes", "bad": "no", "so-so": "eh"}, "must name every label once"),
        ({"good": ("yes", "fine"), "bad": "no"}, r"equally many variants, got \[1, 2\]"),
        ({"good": (), "bad": ()}, "equally many variants"),
    ],
)
def test_words_that_do_not_fit(words: Any, says: str) -> None:
    with pytest.raises(AttarError, match=says):
        word_variants(PromptSettings(words=words), LABELS)


@pytest.mark.parametrize("given", [{"template": "no place"}, {"template": "{text} {text}"}, {"templates": ("x",)}])
def test_templates_that_name_no_text(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"must name {text} once"):
        PromptSettings(**given)
