from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from attar.store.spending import Cost
from attar.teachers.endpoint_settings import EndpointSettings

KEY = "sk-live-abc123"


def _settings(**changes: Any) -> EndpointSettings:
    return EndpointSettings(**{"base_url": "https://host/v1", "model": "m", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"key": KEY},
        {"api_key": KEY},
        {"API-KEY": KEY},
        {"body": {"api_key": KEY}},
        {"body": {"Authorization": f"Bearer {KEY}"}},
        {"x_api_key": KEY},
        {"access_token": KEY},
        {"accessToken": KEY},
        {"client-secret": KEY},
        {"body": {"x-api-key": KEY}},
        {"body": {"db_password": 12345}},
        {"body": {"extra_headers": {"Authorization": f"Bearer {KEY}"}}},
        {"body": {"tools": [{"type": "search", "auth": {"apiKey": KEY}}]}},
        {"body": {"api_key": [KEY]}},
        {"key_env": KEY},
        {"base_url": f"https://user:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?key={KEY}"},
    ],
    ids=str,
)
def test_a_key_in_the_recipe_is_refused_and_not_repeated(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        _settings(**changes)
    assert KEY not in str(caught.value)
    assert "environment" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"max_think_tokens": 5, "stop_token_ids": [1], "skip_special_tokens": False},
        {"prompt_cache_key": "reviews"},
        {"chat_template_kwargs": {"eos_token": "</s>", "add_token": True}},
        {"response_format": {"schema": {"properties": {"key": {"type": "string"}}, "required": ["key"]}}},
    ],
    ids=str,
)
def test_keys_that_only_sound_like_secrets_are_sent(body: dict[str, Any]) -> None:
    assert _settings(body=body).body == body


@pytest.mark.parametrize("address", ["", "host/v1", "ftp://host", "http://", "http://host:99999", "http://host:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="base_url must read"):
        _settings(base_url=address)


def test_a_dollar_cap_needs_a_price() -> None:
    with pytest.raises(ValidationError, match="needs input_price or output_price"):
        _settings(max_dollars=1)
    assert _settings(max_dollars=1, input_price=0.15).caps.dollars == 1


def test_votes_need_a_temperature_and_labels() -> None:
    with pytest.raises(ValidationError, match="temperature > 0"):
        _settings(votes=3)
    with pytest.raises(ValidationError, match="mode: labels"):
        _settings(votes=3, temperature=1, mode="text")


def test_label_probabilities_have_no_temperature() -> None:
    with pytest.raises(ValidationError, match="temperature is for votes, or mode: text or tokens"):
        _settings(temperature=0.7)
    assert _settings(temperature=0.7, votes=3).temperature == 0.7
    assert _settings(temperature=0.7, mode="tokens").temperature == 0.7


@pytest.mark.parametrize("name", ["model", "max_tokens", "logprobs", "stream", "seed"])
def test_the_body_may_not_overrule_what_attar_sets(name: str) -> None:
    with pytest.raises(ValidationError, match=f"must not hold {name}"):
        _settings(body={name: 1})
    assert _settings(body={"stop": ["\n"]}).body == {"stop": ["\n"]}


def test_prices_are_dollars_a_million_tokens() -> None:
    settings = _settings(input_price=0.15, output_price=0.6)
    assert settings.cost(2_000_000, 500_000, 3) == Cost(3, 2_000_000, 500_000, pytest.approx(0.6))
