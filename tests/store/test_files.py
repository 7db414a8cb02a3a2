from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from attar.errors import AttarError
from attar.store import files


def test_write_makes_folders_and_leaves_nothing_beside(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a" / "b.bin", b"one")
    files.write_bytes(tmp_path / "a" / "b.bin", b"two")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_kill_before_the_rename_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "No space is left"), (errno.EDQUOT, "ATTAR_CACHE"), (errno.EACCES, "cannot be written")],
)
def test_disk_errors_become_user_errors(code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AttarError, match=words):
        files.write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_other_disk_errors_pass() -> None:
    with pytest.raises(OSError, match="strange"), files.disk_errors(Path("x")):
        raise OSError(errno.EIO, "strange")


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_json_refuses_what_is_no_json(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_json_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AttarError, match="cannot be read as JSON"):
        files.read_json(path)


def test_json_keeps_letters(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"ü": "日本"})
    assert "日本" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"ü": "日本"}


def test_tree_hash_sees_names_and_contents_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        files.write_bytes(tmp_path / name / "sub" / "x", b"content")
    assert files.sha256_tree(tmp_path / "one") == files.sha256_tree(tmp_path / "two")
    before = files.sha256_tree(tmp_path / "one")
    (tmp_path / "one" / "sub" / "x").rename(tmp_path / "one" / "sub" / "y")
    assert files.sha256_tree(tmp_path / "one") != before
    assert files.folder_bytes(tmp_path / "one") == 7


def test_hash_of_known_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, example "abc"
    assert files.sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_remove_takes_files_folders_links_and_nothing(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "kept" / "x", b"1")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove(tmp_path / "link")
    files.remove(tmp_path / "not there")
    assert (tmp_path / "kept" / "x").exists()
    files.remove(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
