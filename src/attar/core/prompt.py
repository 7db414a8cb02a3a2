"""Hold a prompt as data: printable, comparable, saved as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from attar.errors import AttarError


@dataclass(frozen=True)
class TextPrompt:
    r"""Hold a text prompt for a classifier made of a language model.

    Args:
        template: text with ``{text}`` where the example stands; it may name ``{options}``, the label words in a
            list. What follows the example ends where the label word begins, without a trailing space.
        words: the word that stands for each label, in the order of the labels.
        chat: put the template in the tokenizer's chat template, as the user's message.
        demonstrations: solved examples ``(text, label index)``, in order.
        calibration: log-probability to subtract from each label's score (batch calibration), or None.
        name: a short name for tables.

    Example:
        >>> TextPrompt("Review: {text}\nSentiment:", ("bad", "good")).render("Fits well.")
        'Review: Fits well.\nSentiment:'
    """

    template: str
    words: tuple[str, ...]
    chat: bool = False
    demonstrations: tuple[tuple[str, int], ...] = ()
    calibration: tuple[float, ...] | None = None
    name: str = "prompt"

    def fill(self, text: str) -> str:
        """Return the template with the options and one example in it."""
        return self.template.replace("{options}", ", ".join(self.words)).replace("{text}", text)

    def answer(self, label: int) -> str:
        """Return the completion that stands for a label: a chat answers with the word, running text after a space."""
        return self.words[label] if self.chat else f" {self.words[label]}"

    def render(self, text: str) -> str:
        """Return the running text that is scored (without chat roles): demonstrations, then the example."""
        solved = [self.fill(shown) + self.answer(label) + "\n\n" for shown, label in self.demonstrations]
        return "".join(solved) + self.fill(text)

    def messages(self, text: str) -> list[dict[str, str]]:
        """Return the chat that is scored: each demonstration a question and its answer, then the example."""
        turns: list[dict[str, str]] = []
        for shown, label in self.demonstrations:
            turns.append({"role": "user", "content": self.fill(shown)})
            turns.append({"role": "assistant", "content": self.answer(label)})
        return [*turns, {"role": "user", "content": self.fill(text)}]

    def calibrated(self, bias: tuple[float, ...] | None) -> TextPrompt:
        """Return the same prompt with another calibration."""
        return replace(self, calibration=bias)

    def to_json(self) -> dict[str, Any]:
        """Return the prompt as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TextPrompt:
        """Return the prompt that `to_json` wrote."""
        bias = value["calibration"]
        return TextPrompt(
            template=value["template"],
            words=tuple(value["words"]),
            chat=value["chat"],
            demonstrations=tuple((text, int(label)) for text, label in value["demonstrations"]),
            calibration=None if bias is None else tuple(float(x) for x in bias),
            name=value["name"],
        )

    @property
    def forward_id(self) -> str:
        """Return a short id of what the model reads: prompts that differ in nothing the model sees share it."""
        read = self.messages("{text}") if self.chat else self.render("{text}")
        return hashlib.sha256(json.dumps([self.chat, read]).encode("utf-8")).hexdigest()[:16]


def encode(tokenizer: Any, prompt: TextPrompt, text: str) -> list[int]:
    """Return the token ids a model reads to answer one text, chat roles included.

    Raises:
        AttarError: a chat prompt with a tokenizer that has no chat template.
    """
    if not prompt.chat:
        return list(tokenizer(prompt.render(text)).input_ids)
    if tokenizer.chat_template is None:
        raise AttarError(
            f"The prompt '{prompt.name}' asks for chat, but the teacher's tokenizer has no chat template. "
            "Set chat: false."
        )
    rendered = tokenizer.apply_chat_template(prompt.messages(text), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)


def cut(tokenizer: Any, text: str, tokens: int) -> str:
    """Return the text without what is beyond a number of tokens."""
    ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return text if len(ids.input_ids) <= tokens else text[: ids.offset_mapping[tokens - 1][1]]
