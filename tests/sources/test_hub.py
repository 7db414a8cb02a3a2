"""The hub, without a network: a local hub cache and an address that cannot be reached."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from attar.errors import AttarError
from attar.sources import hub
from attar.sources.reference import fetch, fingerprint, parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return tmp_path


def test_a_cached_revision_needs_no_network(cache: Path) -> None:
    assert fingerprint(parse("owner/name", cache), None) == f"hf:owner/name@{COMMIT}"
    assert fingerprint(parse("owner/name@main", cache), None) == f"hf:owner/name@{COMMIT}"
    folder = fetch(parse("owner/name", cache), None, cache)
    assert (folder / "config.json").read_text() == "{}"
    assert fetch(parse("owner/name#config.json", cache), None, cache) == folder / "config.json"


def test_a_missing_file_of_a_repository_is_named(cache: Path) -> None:
    with pytest.raises(AttarError, match=r"Did you mean 'config\.json'\?"):
        fetch(parse("owner/name#konfig.json", cache), None, cache)


@pytest.mark.parametrize("text", ["owner/other", "owner/name@v9"])
def test_offline_is_said_with_what_to_do(cache: Path, text: str) -> None:
    with pytest.raises(AttarError, match=r"the hub cannot be reached .* pypi: source"):
        fingerprint(parse(text, cache), None)
    with pytest.raises(AttarError, match="the hub cannot be reached"):
        fetch(parse(text, cache), None, cache)


def test_a_commit_that_is_not_cached_is_said(cache: Path) -> None:
    with pytest.raises(AttarError, match="the hub cannot be reached"):
        hub.snapshot("owner/name", "f" * 40, None)


def test_pickles_and_code_are_never_wanted() -> None:
    assert not set(hub.WANTED) & set(hub.NEVER)
    assert {"*.bin", "*.pt", "*.py"} <= set(hub.NEVER)
