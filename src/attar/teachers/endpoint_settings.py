"""Set an endpoint teacher: where it answers, how it is asked, and what may be spent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from attar.settings import Settings
from attar.store.spending import Caps, Cost

SECRETS = ("key", "token", "authorization", "password", "secret")
"""How names end whose value must not be in a recipe."""
HARMLESS = frozenset({"prompt_cache_key", "bos_token", "eos_token", "pad_token"})
"""Names that end like these and hold nothing secret: known keys of a request's body."""
DEFAULT_KEY = "OPENAI_API_KEY"


class EndpointSettings(Settings):
    """Set a teacher that answers over HTTP as OpenAI's API does; the key stays in the environment.

    Example:
        >>> EndpointSettings(base_url="http://127.0.0.1:8000/v1/", model="small").base_url
        'http://127.0.0.1:8000/v1'
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # a key that slipped into the recipe is not printed

    base_url: str = Field(description="address up to /v1, for example http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="name that the server knows the model by")
    key_env: str | None = Field(DEFAULT_KEY, description="environment variable that holds the key; null sends none")
    mode: Literal["labels", "text", "tokens"] = Field(
        "labels", description="label probabilities, generated text, or text with each token's top log-probabilities"
    )
    api: Literal["auto", "chat", "completions"] = Field(
        "auto", description="chat/completions or completions; auto: as the prompt's `chat` says"
    )
    top_logprobs: int = Field(20, ge=1, le=20, description="log-probabilities asked for at each token")
    votes: int = Field(0, ge=0, le=100, description="answers sampled a text where the server has no log-probabilities")
    max_tokens: int = Field(256, ge=1, le=32768, description="tokens of a generated text")
    max_characters: int = Field(16000, ge=1, description="a longer text loses its end")
    temperature: float = Field(0.0, ge=0, le=2, description="of generation and of votes; else 0")
    body: Mapping[str, JsonValue] = Field({}, description="further keys of each request, for example stop")
    token_limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the limit of a text's tokens"
    )
    accept_model: str | None = Field(
        None, description="pattern (*, ?) of further names that the server may answer with"
    )
    concurrency: int = Field(4, ge=1, le=256, description="calls on their way at once")
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds until a call is given up")
    retries: int = Field(6, ge=0, le=100, description="further tries of a failed call")
    backoff: float = Field(
        1.0, ge=0, le=60, description="seconds before the first retry; each next waits twice as long"
    )
    longest_wait: float = Field(120.0, ge=0, le=3600, description="most seconds between two tries")
    input_price: float = Field(0.0, ge=0, description="dollars a million input tokens")
    output_price: float = Field(0.0, ge=0, description="dollars a million output tokens")
    max_dollars: float | None = Field(None, ge=0, description="hard cap, all runs of this ledger together")
    max_calls: int | None = Field(None, ge=0, description="hard cap, all runs of this ledger together")
    max_tokens_total: int | None = Field(None, ge=0, description="hard cap, all runs of this ledger together")

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, value: Any) -> Any:
        name = next(_secrets(value), None)
        if name is not None:
            raise ValueError(
                f"`{name}` would put a key in the recipe. Put the key in an environment variable and its name in "
                "`key_env`"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value.strip())
            port_is_right = parts.port is None or parts.port > 0
        except ValueError:
            port_is_right = False
        rule = "base_url must read http://host:port/v1 or https://host/v1"
        if not port_is_right or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(rule)
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"{rule}, without a user, a query or a fragment: a key belongs in the environment")
        return value.strip().rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("key_env must be the name of an environment variable, not the key itself")
        return value

    @field_validator("body")
    @classmethod
    def _body_leaves_our_keys(cls, value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        own = {
            "model",
            "messages",
            "prompt",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "stream",
            "n",
            "seed",
        }
        taken = sorted(own & value.keys() | {"logprobs", "top_logprobs"} & value.keys())
        if taken:
            raise ValueError(f"body must not hold {', '.join(taken)}: attar sets them by settings of their own")
        return value

    @model_validator(mode="after")
    def _whole(self) -> EndpointSettings:
        if self.max_dollars is not None and not self.input_price and not self.output_price:
            raise ValueError("max_dollars needs input_price or output_price, in dollars a million tokens")
        if self.votes and (self.mode != "labels" or self.temperature == 0):
            raise ValueError("votes need mode: labels and a temperature > 0, or all votes are the same")
        if self.temperature and self.mode == "labels" and not self.votes:
            raise ValueError(
                "temperature is for votes, or mode: text or tokens; label probabilities are read at 0. Leave it out"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the answers depend on: address, model and parameters."""
        names = {"base_url", "model", "mode", "top_logprobs", "votes", "max_tokens", "max_characters", "body"}
        return self.model_dump(mode="json", include=names)

    @property
    def caps(self) -> Caps:
        """Return what may be spent at most."""
        return Caps(self.max_calls, self.max_tokens_total, self.max_dollars)

    def cost(self, input_tokens: int, output_tokens: int, calls: int = 1) -> Cost:
        """Return the cost of calls that read and write so many tokens."""
        dollars = (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6
        return Cost(calls, input_tokens, output_tokens, dollars)


def _secrets(value: Any) -> Iterator[str]:
    """Yield the names, at any depth, that hold a text or a number and end as secrets do.

    Example:
        >>> list(_secrets({"headers": [{"X-Api-Key": "a", "max_tokens": 5}], "schema": {"key": {"type": "string"}}}))
        ['X-Api-Key']
    """
    if isinstance(value, Mapping):
        for name, held in value.items():
            plain = str(name).lower().replace("-", "_")
            if plain.endswith(SECRETS) and plain not in HARMLESS and not isinstance(held, Mapping | bool | None):
                yield str(name)
            yield from _secrets(held)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one)
