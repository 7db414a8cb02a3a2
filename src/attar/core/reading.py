"""Read texts under a prompt: what stands before and after each of them, and the ids of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attar.core.prompt import TextPrompt, chat_text
from attar.errors import AttarError

MARK = "\ue000text\ue000"
"""Stands for a text while a prompt is laid out: a character for private use, which no prompt has a reason to hold."""


@dataclass(frozen=True)
class Frame:
    r"""Hold a prompt as plain strings, so that whoever reads under it needs no chat template.

    Args:
        before: what stands before a text: instruction, demonstrations, chat roles.
        after: what stands after it, up to where the answer begins.
        special_tokens: the tokenizer adds its own (running text); a chat template has written them already.
        trims: the chat template takes white space away from the text's beginning, and from its end.
        max_length: tokens of a text that are read; the frame itself is never cut.

    Example:
        >>> Frame("Review: ", "\nSentiment:", True, (False, False), 64).around("Fits well.")
        'Review: Fits well.\nSentiment:'
    """

    before: str
    after: str
    special_tokens: bool
    trims: tuple[bool, bool]
    max_length: int

    def around(self, text: str) -> str:
        """Return the whole that the model reads of a text (which is not cut here)."""
        left, right = self.trims
        kept = text.lstrip() if left else text
        return self.before + (kept.rstrip() if right else kept) + self.after

    def cut(self, text: str, offsets: Sequence[tuple[int, int]]) -> str:
        """Return the text without what is beyond ``max_length`` tokens; ``offsets`` are where each token lies in it."""
        return text if len(offsets) <= self.max_length else text[: offsets[self.max_length - 1][1]]

    def to_json(self) -> dict[str, Any]:
        """Return the frame as JSON values."""
        return {**asdict(self), "trims": list(self.trims)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Frame:
        """Return the frame that `to_json` wrote; other keys are passed over."""
        left, right = value["trims"]
        return Frame(value["before"], value["after"], value["special_tokens"], (left, right), value["max_length"])


def frame_of(tokenizer: Any, prompt: TextPrompt, max_length: int) -> Frame:
    """Return a prompt as plain strings.

    Args:
        tokenizer: a tokenizer of `transformers`, whose chat template renders a chat prompt.
        prompt: what the model reads.
        max_length: tokens of a text that are read.

    Raises:
        AttarError: the template does not name the text once, or a chat prompt meets a tokenizer without chat template.
    """
    before, after = _parted(_laid_out(tokenizer, prompt, MARK), prompt)
    spaced = _laid_out(tokenizer, prompt, f" {MARK} ")
    trims = (f" {MARK}" not in spaced, f"{MARK} " not in spaced)
    return Frame(before, after, not prompt.chat, trims, max_length)


def _laid_out(tokenizer: Any, prompt: TextPrompt, text: str) -> str:
    return chat_text(tokenizer, prompt, text) if prompt.chat else prompt.render(text)


def _parted(whole: str, prompt: TextPrompt) -> tuple[str, str]:
    if whole.count(MARK) != 1:
        where = "the tokenizer's chat template shows it" if prompt.chat and "{text}" in prompt.template else "it names"
        raise AttarError(
            f"The prompt '{prompt.name}' must show the text once, as {{text}}; {where} {whole.count(MARK)} times. "
            "Change the template" + (", or set chat: false." if prompt.chat else ".")
        )
    before, _, after = whole.partition(MARK)
    return before, after


def token_ids(tokenizer: Any, frame: Frame, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids that a model reads of each text; a longer text loses its end, the frame loses nothing.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        frame: what stands around each text.
        texts: the examples.
    """
    if not texts:  # tokenizers refuse an empty batch
        return []
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    cut = [frame.cut(text, offsets) for text, offsets in zip(texts, found.offset_mapping, strict=True)]
    whole = tokenizer([frame.around(text) for text in cut], add_special_tokens=frame.special_tokens)
    return [list(ids) for ids in whole.input_ids]


def first_tokens(tokenizer: Any, prompt: TextPrompt) -> list[int]:
    """Return the first token of each label word, as the model would write it after the prompt.

    Raises:
        AttarError: there are no label words, one has no token, or two begin with the same.
    """
    if not prompt.words:
        raise AttarError(f"The prompt '{prompt.name}' has no label words. Give one word for each label.")
    found: dict[int, str] = {}
    for place, word in enumerate(prompt.words):
        ids = tokenizer(prompt.answer(place), add_special_tokens=False).input_ids
        if not ids:
            raise AttarError(f"The label word '{word}' has no token in the model's vocabulary. Choose another word.")
        if ids[0] in found:
            raise AttarError(
                f"The label words '{found[ids[0]]}' and '{word}' begin with the same token of the model's vocabulary "
                f"({tokenizer.decode([ids[0]])!r}), and a model that answers by label words reads the first token "
                "alone. Choose words that begin differently."
            )
        found[int(ids[0])] = word
    return list(found)
