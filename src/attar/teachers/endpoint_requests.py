"""Make the requests that ask an endpoint about a text, each with its content key and its worst-case cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.seeds import derive
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_settings import EndpointSettings

VOTE_TOKENS = 16
"""Tokens of a sampled answer: enough for a label word."""
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 8
"""What roles and separators of a chat take, as a bound."""
TEMPLATE_TOKENS = 64
"""What a server's chat template may add, for example its own system message."""


class RequestMaker:
    """Turn texts into requests.

    Args:
        settings: of the endpoint.
        prompt: what the model reads.
        seed: of sampled answers.

    Raises:
        AttarError: a chat prompt for the plain completions API.
    """

    def __init__(self, settings: EndpointSettings, prompt: TextPrompt, seed: int = 0) -> None:
        self.settings = settings
        self.prompt = prompt
        self.seed = seed
        self.chat = settings.api == "chat" or (settings.api == "auto" and prompt.chat)
        if prompt.chat and not self.chat:
            raise AttarError(f"The prompt '{prompt.name}' asks for chat, but api is 'completions'. Set api: chat.")

    def requests(self, text: str) -> list[Request]:
        """Return what is asked about one text: one request, or one for each vote."""
        whole = text[: self.settings.max_characters].encode("utf-8", "replace").decode("utf-8")  # no half characters
        asked = self._asked(whole)
        if not self.settings.votes:
            seed = {"seed": self._draw(0)} if asked["temperature"] else {}
            return [self._request({**asked, **seed})]
        return [self._request({**asked, "seed": self._draw(vote)}) for vote in range(self.settings.votes)]

    @property
    def output_tokens(self) -> int:
        """Return the most tokens that one call writes."""
        if self.settings.mode == "labels":
            return VOTE_TOKENS if self.settings.votes else 1
        return self.settings.max_tokens

    def _draw(self, vote: int) -> int:
        return derive(self.seed, "endpoint", vote) % 2**31  # servers keep seeds in 32 bits

    def _asked(self, text: str) -> dict[str, Any]:
        """Return the body for one text, without a seed."""
        settings = self.settings
        labels = settings.mode == "labels" and not settings.votes
        read = {"messages": self._messages(text)} if self.chat else {"prompt": self.prompt.render(text)}
        body = {"model": settings.model, **read, settings.token_limit: self.output_tokens}
        body["temperature"] = 0.0 if labels else settings.temperature
        if labels or settings.mode == "tokens":
            more = {"logprobs": True, "top_logprobs": settings.top_logprobs}
            body.update(more if self.chat else {"logprobs": settings.top_logprobs})
        return {**body, **settings.body}

    def _messages(self, text: str) -> list[dict[str, str]]:
        turns = replace(self.prompt, chat=True).messages(text)  # a chat answers with the bare word
        return [{**turn, "content": turn["content"].strip()} for turn in turns] if not self.prompt.chat else turns

    def _request(self, body: Mapping[str, Any]) -> Request:
        path = "chat/completions" if self.chat else "completions"
        key = digest({"url": f"{self.settings.base_url}/{path}", "body": body})
        return Request(key, path, body, self.settings.cost(most_input_tokens(body), self.output_tokens))


def digest(value: Any) -> str:
    """Return the SHA-256 of JSON values, whatever the order of their keys.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def shown(body: Mapping[str, Any]) -> list[str]:
    """Return the texts that a request shows to the model, one a message."""
    return [turn["content"] for turn in body["messages"]] if "messages" in body else [body["prompt"]]


def most_input_tokens(body: Mapping[str, Any]) -> int:
    """Return a bound of the tokens that a request's texts make: every token stands for at least one byte.

    Example:
        >>> most_input_tokens({"prompt": "abc"})
        75
    """
    texts = shown(body)
    return (
        sum(len(text.encode("utf-8", "replace")) for text in texts) + TOKENS_PER_MESSAGE * len(texts) + TEMPLATE_TOKENS
    )


def likely_input_tokens(body: Mapping[str, Any], count: Callable[[str], int] | None) -> int:
    """Return about how many tokens a request's texts make: counted, or a token for every four characters.

    Example:
        >>> likely_input_tokens({"prompt": "ten letter"}, None)
        11
    """
    texts = shown(body)
    plain = (count(text) if count else math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts)
    return sum(plain) + TOKENS_PER_MESSAGE * len(texts)
