"""Hold a prompt as data: printable, comparable, saved as JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from attar.errors import AttarError

Shown = tuple[tuple[str, int | str], ...]
"""Solved examples in order: a text with the index of its label, or with the answer itself for tasks that write."""


@dataclass(frozen=True)
class TextPrompt:
    r"""Hold a text prompt of a language model.

    What all examples share comes first (instruction, then demonstrations), so that its keys and values are computed
    once for all of them.

    Args:
        template: text with ``{text}`` where the example stands; it may name ``{options}``, the label words in a
            list. What follows the example ends where the answer begins, without a trailing space.
        words: the word that stands for each label, in the order of the labels; empty for tasks that write.
        chat: put the prompt in the tokenizer's chat template: the instruction as the system's message, each example
            as the user's.
        demonstrations: solved examples ``(text, label index or answer)``, in order.
        calibration: log-probability to subtract from each label's score, or None.
        name: a short name for tables.
        instruction: what is said once, before everything else; it may name ``{options}``.

    Example:
        >>> prompt = TextPrompt("Review: {text}\nSentiment:", ("bad", "good"), instruction="Judge the review.")
        >>> print(prompt.render("Fits well."))
        Judge the review.
        <BLANKLINE>
        Review: Fits well.
        Sentiment:
    """

    template: str
    words: tuple[str, ...]
    chat: bool = False
    demonstrations: Shown = ()
    calibration: tuple[float, ...] | None = None
    name: str = "prompt"
    instruction: str = ""

    def fill(self, text: str) -> str:
        """Return the template with the options and one example in it."""
        return self._optioned(self.template).replace("{text}", text)

    def answer(self, label: int | str) -> str:
        """Return the completion that stands for a label: a chat answers with the word, running text after a space."""
        said = self.words[label] if isinstance(label, int) else label
        return said if self.chat else f" {said}"

    def render(self, text: str) -> str:
        """Return the running text that is scored (without chat roles): instruction, demonstrations, the example."""
        solved = [self.fill(shown) + self.answer(label) + "\n\n" for shown, label in self.demonstrations]
        told = f"{self._optioned(self.instruction)}\n\n" if self.instruction else ""
        return told + "".join(solved) + self.fill(text)

    def messages(self, text: str) -> list[dict[str, str]]:
        """Return the chat that is scored: the instruction, each demonstration as question and answer, the example."""
        turns: list[dict[str, str]] = []
        if self.instruction:
            turns.append({"role": "system", "content": self._optioned(self.instruction)})
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
            demonstrations=tuple((text, label) for text, label in value["demonstrations"]),
            calibration=None if bias is None else tuple(float(x) for x in bias),
            name=value["name"],
            instruction=value.get("instruction", ""),  # older files have none
        )

    def __str__(self) -> str:
        """Return the prompt for people: what is read, the place of the example marked, then the label words."""
        if self.chat:
            read = "\n".join(f"[{turn['role']}] {turn['content']}" for turn in self.messages("{text}"))
        else:
            read = self.render("{text}")
        bias = "" if self.calibration is None else f"\ncalibration: {', '.join(f'{b:+.3f}' for b in self.calibration)}"
        return read + (f"\nwords: {', '.join(self.words)}" if self.words else "") + bias

    def diff(self, other: TextPrompt) -> str:
        r"""Return what must change to get the other prompt, line by line, in the unified form.

        Example:
            >>> print(TextPrompt("{text}\nMood:", ("sad", "glad")).diff(TextPrompt("{text}\nTone:", ("sad", "glad"))))
            --- prompt
            +++ prompt
            @@ -1,3 +1,3 @@
             {text}
            -Mood:
            +Tone:
             words: sad, glad
        """
        before, after = str(self).splitlines(), str(other).splitlines()
        return "\n".join(difflib.unified_diff(before, after, self.name, other.name, lineterm=""))

    @property
    def forward_id(self) -> str:
        """Return a short id of what the model reads: prompts that differ in nothing the model sees share it."""
        read = self.messages("{text}") if self.chat else self.render("{text}")
        return hashlib.sha256(json.dumps([self.chat, read]).encode("utf-8")).hexdigest()[:16]

    def _optioned(self, text: str) -> str:
        return text.replace("{options}", ", ".join(self.words))


def encode(tokenizer: Any, prompt: TextPrompt, text: str) -> list[int]:
    """Return the token ids a model reads to answer one text, chat roles included.

    Raises:
        AttarError: a chat prompt with a tokenizer that has no chat template.
    """
    if not prompt.chat:
        return list(tokenizer(prompt.render(text)).input_ids)
    rendered = chat_text(tokenizer, prompt, text)
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)


def chat_text(tokenizer: Any, prompt: TextPrompt, text: str) -> str:
    """Return the running text that the tokenizer's chat template makes of a chat prompt.

    A template that knows no system role gets the instruction at the head of the first user's message.

    Raises:
        AttarError: the tokenizer has no chat template.
    """
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise AttarError(
            f"The prompt '{prompt.name}' asks for chat, but the teacher's tokenizer has no chat template. "
            "Set chat: false."
        )
    turns = prompt.messages(text)
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        if turns[0]["role"] != "system":
            raise
        first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        return str(tokenizer.apply_chat_template([first, *turns[2:]], tokenize=False, add_generation_prompt=True))


def prompt_tokens(tokenizer: Any, prompt: TextPrompt) -> int:
    """Return the tokens a prompt adds to every example."""
    return len(encode(tokenizer, prompt, ""))


def cut(tokenizer: Any, text: str, tokens: int) -> str:
    """Return the text without what is beyond a number of tokens."""
    ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return text if len(ids.input_ids) <= tokens else text[: ids.offset_mapping[tokens - 1][1]]


def relabel(prompt: TextPrompt, words: tuple[str, ...]) -> TextPrompt:
    """Return the same prompt read with other label words; an old calibration is not theirs, so it is dropped."""
    return replace(prompt, words=words, calibration=None)
