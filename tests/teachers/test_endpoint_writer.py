from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.teachers.fake_endpoint import MODEL, FakeEndpoint, serving

from attar.errors import AttarError
from attar.teachers.endpoint_writer import EndpointWriter

REQUESTS = ["first", "second", "first"]


def _writer(server: FakeEndpoint, folder: Path, **changes: Any) -> EndpointWriter:
    plain = {"mode": "text", "backoff": 0.001, "temperature": 0.7, "concurrency": 2}
    settings = EndpointWriter.Settings(**{"base_url": server.url, "model": MODEL, **plain, **changes})
    return EndpointWriter(settings, folder / "ledger.jsonl")


def test_every_request_is_answered_and_paid_once(tmp_path: Path) -> None:
    with serving() as server:
        written = _writer(server, tmp_path).write(REQUESTS, 1)
        assert len(written) == 3
        assert all(text and text == text.strip() for text in written)
        assert server.billed.total() == 3  # a request that comes twice is asked by two seeds
        assert len({body["seed"] for body in server.bodies if body["messages"][0]["content"] == "first"}) == 2
        again = _writer(server, tmp_path)  # as after a kill
        assert again.write(REQUESTS, 1) == written
        assert server.billed.total() == again.spent.calls == 3
        again.write(REQUESTS, 2)
        assert server.billed.total() == 6


def test_without_chance_a_request_is_asked_once(tmp_path: Path) -> None:
    with serving() as server:
        written = _writer(server, tmp_path, temperature=0.0).write(REQUESTS, 1)
        assert written[0] == written[2]
        assert server.billed.total() == 2
        assert _writer(server, tmp_path, temperature=0.0).write(REQUESTS, 9) == written
        assert server.billed.total() == 2


def test_a_server_without_chat_reads_the_request_as_it_is(tmp_path: Path) -> None:
    with serving() as server:
        _writer(server, tmp_path, api="completions").write(["say {options} and {text}"], 0)
        assert [body["prompt"] for body in server.bodies] == ["say {options} and {text}"]


def test_a_cap_holds_and_what_was_paid_stays(tmp_path: Path) -> None:
    with serving() as server:
        with pytest.raises(AttarError, match="cap max_calls: 2 is reached"):
            _writer(server, tmp_path, max_calls=2).write(["a", "b", "c", "d"], 0)
        assert server.billed.total() == 2
        _writer(server, tmp_path, max_calls=4).write(["a", "b", "c", "d"], 0)
        assert server.billed.total() == 4


def test_what_does_not_fit_is_said_before_a_call(tmp_path: Path) -> None:
    with serving() as server:
        with pytest.raises(AttarError, match="must have mode: text, got labels"):
            _writer(server, tmp_path, mode="labels", temperature=0.0)
        with pytest.raises(AttarError, match="has 30 characters, more than max_characters"):
            _writer(server, tmp_path, max_characters=20).write(["x" * 30], 0)
        assert _writer(server, tmp_path).write([], 0) == []
        assert server.seen.total() == 0
