"""Read the replies of an OpenAI-compatible server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Top = Sequence[tuple[str, float]]
"""The likeliest tokens in one place with their log-probabilities, in nats."""


@dataclass(frozen=True)
class TokenChoices:
    """Hold one generated token and the likeliest choices in its place.

    Args:
        token: its text.
        logprob: its log-probability, in nats.
        top: the likeliest tokens and their log-probabilities, the likeliest first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """Hold what a server answered.

    Args:
        model: the name the server gives itself; None where it gives none.
        text: what it generated.
        finish: why it stopped: ``stop``, ``length`` or another word of the server's.
        tokens: the text's tokens; None where the server gives no log-probabilities.
        usage: tokens read and written; None where the server does not count both.
    """

    model: str | None
    text: str
    finish: str
    tokens: tuple[TokenChoices, ...] | None
    usage: tuple[int, int] | None

    def to_json(self) -> dict[str, Any]:
        """Return what a ledger keeps, as JSON values."""
        tokens = None if self.tokens is None else [[one.token, one.logprob, list(one.top)] for one in self.tokens]
        return {"model": self.model, "text": self.text, "finish": self.finish, "tokens": tokens}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Reply:
        """Return the reply that `to_json` wrote, without its usage."""
        tokens = value["tokens"]
        if tokens is not None:
            tokens = tuple(TokenChoices(t, p, tuple((s, q) for s, q in top)) for t, p, top in tokens)
        return Reply(value["model"], value["text"], value["finish"], tokens, None)


def read_reply(raw: bytes) -> Reply:
    """Return the reply in the body of an answer, of ``chat/completions`` or of ``completions``.

    Raises:
        ValueError: the body is not such JSON.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        chat = "message" in choice
        text = choice["message"]["content"] if chat else choice["text"]
        logprobs = choice.get("logprobs")
        tokens = None if logprobs is None else (_chat_tokens if chat else _plain_tokens)(logprobs)
        usage = _usage(body.get("usage"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not the JSON of a completion ({type(error).__name__})") from error
    if not isinstance(text, str | None) or not isinstance(body.get("model"), str | None):
        raise ValueError("not the JSON of a completion (text)")
    return Reply(body.get("model"), text or "", str(choice.get("finish_reason")), tokens, usage)


def _usage(value: Any) -> tuple[int, int] | None:
    """Return the tokens read and written; None unless both are counted: the answer is of use all the same."""
    if not isinstance(value, Mapping):
        return None
    read, written = value.get("prompt_tokens"), value.get("completion_tokens")
    return (read, written) if _is_count(read) and _is_count(written) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _chat_tokens(logprobs: Mapping[str, Any]) -> tuple[TokenChoices, ...] | None:
    content = logprobs.get("content")
    if content is None:
        return None
    pairs = [[(top["token"], top["logprob"]) for top in one.get("top_logprobs") or ()] for one in content]
    return tuple(_choices(one["token"], one["logprob"], top) for one, top in zip(content, pairs, strict=True))


def _plain_tokens(logprobs: Mapping[str, Any]) -> tuple[TokenChoices, ...] | None:
    tokens, own, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if tokens is None or own is None or tops is None:
        return None
    return tuple(_choices(t, p, list((top or {}).items())) for t, p, top in zip(tokens, own, tops, strict=True))


def _choices(token: str, own: float, top: Sequence[tuple[str, Any]]) -> TokenChoices:
    """Return one token; choices of probability 0, which servers write in several ways, are left out."""
    kept = [(str(text), float(value)) for text, value in top if value is not None and float(value) > -1e3]
    if any(math.isnan(value) or value > 0.01 for _, value in kept) or not math.isfinite(float(own)):
        raise ValueError("a log-probability must be a number <= 0")
    return TokenChoices(str(token), float(own), tuple(sorted(kept, key=lambda pair: -pair[1])))
