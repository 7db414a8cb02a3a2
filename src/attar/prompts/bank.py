"""Hold the bank of prompt templates: several phrasings of one question, as running text and as chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.settings import PromptSettings


@dataclass(frozen=True)
class Template:
    """Hold a phrasing: what is said once, and what is said of each example.

    Args:
        name: for tables.
        template: of an example.
        instruction: said once, before everything else.
        chat: it is for chat models.
    """

    name: str
    template: str
    instruction: str = ""
    chat: bool = False


LABELING: tuple[Template, ...] = (
    Template("statement", "{text}\n\nThe {target} of this {input} is"),
    Template("in-short", "{text}\nIn short, the {input} is"),
    Template("opinion", "{Input}: {text}\nThe {target} is"),
    Template("instruction", "{Input}: {text}\n{Target}:", "Classify the {target} of the {input} as {options}."),
    Template("question", "{Input}: {text}\nQuestion: What is the {target} of this {input}, {options}?\nAnswer:"),
    Template(
        "chat-question", "What is the {target} of this {input}: {options}? Answer with one word.\n\n{text}", "", True
    ),
    Template(
        "chat-instruction", "{Input}: {text}\n{Target}:", "Classify the {target} of the {input} as {options}.", True
    ),
)
"""For tasks that choose a label."""

WRITING: tuple[Template, ...] = (
    Template("instruction", "{Input}: {text}\n{Target}:", "Write a {target} for the {input}."),
    Template("short", "{Input}: {text}\nShort {target}:"),
    Template("in-a-few-words", "{text}\n\nIn a few words, the {target} of this {input}:"),
    Template("colon", "{text}\n\n{Target}:"),
    Template("chat-question", "Write a short {target} for this {input}. Answer with nothing else.\n\n{text}", "", True),
    Template("chat-instruction", "{Input}: {text}\n{Target}:", "Write a short {target} for the {input}.", True),
)
"""For tasks that write."""


def word_variants(settings: PromptSettings, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sets of label words to try, the recipe's first.

    Raises:
        AttarError: a label has no word, a word belongs to no label, the labels have different numbers of variants,
            or two labels have the same word.

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
    for words in variants:
        if len(set(words)) < len(words):
            raise AttarError(f"prompt words must tell the labels apart, and {list(words)} names two of them alike.")
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
    """Return the recipe's own prompt, uncalibrated; without labels it is of a task that writes."""
    words = word_variants(settings, labels)[0] if labels else ()
    said = phrase(settings.instruction, settings)
    return TextPrompt(phrase(settings.template, settings), words, settings.chat, name="recipe", instruction=said)


def bank_prompts(settings: PromptSettings, labels: Sequence[str], chat: bool) -> list[TextPrompt]:
    """Return what the model may be asked to read, without demonstrations; the recipe's own prompt first.

    A template that names ``{options}`` comes once for each of the first two sets of words; one that does not is
    read once for all sets, since the words do not change what the model reads.

    Args:
        settings: the recipe's.
        labels: names of the classes; empty for tasks that write.
        chat: the tokenizer has a chat template.
    """
    variants = word_variants(settings, labels) if labels else [()]
    found = [own_prompt(settings, labels)]
    own = [Template(f"own-{i + 1}", template) for i, template in enumerate(settings.templates)]
    for row in [*own, *(LABELING if labels else WRITING)]:
        if row.chat and not chat:
            continue
        sets = variants[:2] if "{options}" in row.template + row.instruction else variants[:1]
        template, said = phrase(row.template, settings), phrase(row.instruction, settings)
        for words in sets:
            label = f"{row.name}/{words[0]}" if len(sets) > 1 else row.name
            found.append(TextPrompt(template, words, row.chat, name=label, instruction=said))
    unique: dict[str, TextPrompt] = {}
    for prompt in found:
        unique.setdefault(prompt.forward_id, prompt)
    return list(unique.values())
