"""Hold the bank of prompt templates: several phrasings of one question, as running text and as chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.settings import Settings

PLAIN = "{Input}: {text}\n{Target}:"
"""The prompt that most people write first; it is the recipe's own where the recipe gives none."""

TEMPLATES: tuple[tuple[str, str, bool], ...] = (
    ("statement", "{text}\n\nThe {target} of this {input} is", False),
    ("in-short", "{text}\nIn short, the {input} is", False),
    ("opinion", "{Input}: {text}\nThe {target} is", False),
    ("instruction", "Classify the {target} of the {input} as {options}.\n\n{Input}: {text}\n{Target}:", False),
    ("question", "{Input}: {text}\nQuestion: What is the {target} of this {input}, {options}?\nAnswer:", False),
    ("chat-question", "What is the {target} of this {input}: {options}? Answer with one word.\n\n{text}", True),
    ("chat-instruction", "Classify the {target} of the {input} as {options}.\n\n{Input}: {text}\n{Target}:", True),
)


class PromptSettings(Settings):
    """Set the teacher's prompt and the search for a better one."""

    template: str = Field(PLAIN, description="the recipe's own prompt, with {text} where the example stands")
    input: str = Field("text", min_length=1, description="what an example is called in the templates: review, mail")
    target: str = Field("label", min_length=1, description="what the label is called there: sentiment, topic")
    words: Mapping[str, str | tuple[str, ...]] | None = Field(
        None, description="label -> its word, or several variants to try; the label's name by default"
    )
    chat: bool = Field(False, description="put the recipe's own prompt in the tokenizer's chat template")
    templates: tuple[str, ...] = Field((), description="further templates to try, as running text")
    search: Literal["bank", "none"] = Field("bank", description="race a bank, or take the recipe's own prompt")
    calibration: Literal["auto", "none", "batch"] = Field("auto", description="auto tries both")
    demonstrations: int = Field(4, ge=0, le=16, description="most solved examples a prompt shows (needs gold on train)")
    block: int = Field(32, ge=8, description="validation examples a prompt is scored on before the next elimination")
    max_tokens: int = Field(256, ge=8, description="tokens of an example that the teacher reads")

    @model_validator(mode="after")
    def _templates_name_text(self) -> PromptSettings:
        for template in (self.template, *self.templates):
            if template.count("{text}") != 1:
                raise ValueError(f"a template must name {{text}} once, where the example stands, got {template!r}")
        return self


def word_variants(settings: PromptSettings, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sets of label words to try, the recipe's first.

    Raises:
        AttarError: a label has no word, a word belongs to no label, or the labels have different numbers of variants.

    Example:
        >>> word_variants(PromptSettings(), ["good", "bad"])
        [('good', 'bad'), ('Good', 'Bad')]
    """
    given = settings.words
    if given is None:
        variants = [tuple(labels)]
    else:
        if set(given) != set(labels):
            raise AttarError(f"prompt words must name every label once: labels are {list(labels)}, got {list(given)}.")
        columns = [(word,) if isinstance(word, str) else tuple(word) for word in (given[label] for label in labels)]
        if len({len(column) for column in columns}) != 1 or not columns[0]:
            counts = [len(column) for column in columns]
            raise AttarError(f"prompt words must give every label equally many variants, got {counts}.")
        variants = list(zip(*columns, strict=True))
    capital = tuple(word[:1].upper() + word[1:] for word in variants[0])
    return [*variants, *([] if capital in variants else [capital])]


def phrase(template: str, settings: PromptSettings) -> str:
    """Return a template with the recipe's names for input and target in it."""
    names = {
        "{input}": settings.input,
        "{target}": settings.target,
        "{Input}": settings.input[:1].upper() + settings.input[1:],
        "{Target}": settings.target[:1].upper() + settings.target[1:],
    }
    for mark, name in names.items():
        template = template.replace(mark, name)
    return template


def own_prompt(settings: PromptSettings, labels: Sequence[str]) -> TextPrompt:
    """Return the recipe's own prompt, uncalibrated."""
    words = word_variants(settings, labels)[0] if labels else ()
    return TextPrompt(phrase(settings.template, settings), words, settings.chat, name="recipe")


def bank_prompts(settings: PromptSettings, labels: Sequence[str], chat: bool) -> list[TextPrompt]:
    """Return what the model may be asked to read, without demonstrations; the recipe's own prompt first.

    A template that names ``{options}`` comes once for each of the first two sets of words; one that does not is
    read once for all sets, since the words do not change what the model reads.

    Args:
        settings: the recipe's.
        labels: names of the classes.
        chat: the tokenizer has a chat template.
    """
    variants = word_variants(settings, labels)
    found = [own_prompt(settings, labels)]
    rows = [*((f"own-{i + 1}", template, False) for i, template in enumerate(settings.templates)), *TEMPLATES]
    for name, template, wants_chat in rows:
        if wants_chat and not chat:
            continue
        sets = variants[:2] if "{options}" in template else variants[:1]
        for words in sets:
            label = f"{name}/{words[0]}" if len(sets) > 1 else name
            found.append(TextPrompt(phrase(template, settings), words, wants_chat, name=label))
    unique: dict[str, TextPrompt] = {}
    for prompt in found:
        unique.setdefault(prompt.forward_id, prompt)
    return list(unique.values())
