"""Let the tests of one file share a cache, as runs of one user do."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of a file's tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(own_cache: None, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the file's cache in place of a test's own."""
    monkeypatch.setenv("ATTAR_CACHE", str(store))
