from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from attar.errors import AttarError
from attar.store.artifacts import CARD, Store, make_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _make(store: Store, key: str = "k", text: str = "hello") -> None:
    with store.build("record", key) as work:
        content = work / "content"
        (content / "deep").mkdir(parents=True, exist_ok=True)
        (content / "deep" / "a.txt").write_text(text)
        store.put("record", key, content, {"data": "d"}, {"seconds": 1.5})
        store.discard_work("record", key)


def test_equal_parts_equal_key_any_change_another() -> None:
    base = make_key(stage="a", settings={"x": 1, "y": [1, 2]})
    assert base == make_key(settings={"y": [1, 2], "x": 1}, stage="a")
    assert len(base) == 32
    changed = [make_key(stage="b", settings={"x": 1, "y": [1, 2]}), make_key(stage="a", settings={"x": 1, "y": [2, 1]})]
    assert len({base, *changed}) == 3
    with pytest.raises(ValueError, match="JSON"):
        make_key(x=float("nan"))


def test_put_then_get(store: Store) -> None:
    assert not store.has("record", "k")
    _make(store)
    found = store.get("record", "k")
    assert store.has("record", "k")
    assert (found.folder / "deep" / "a.txt").read_text() == "hello"
    assert (found.parents, found.seconds, found.kind) == ({"data": "d"}, 1.5, "record")
    assert not (store.root / "work" / "record-k").exists()


@pytest.mark.parametrize("harm", ["changed", "lost", "card"])
def test_damage_is_detected(store: Store, harm: str) -> None:
    _make(store)
    folder = store.path("record", "k")
    if harm == "changed":
        (folder / "deep" / "a.txt").write_text("hellO")
    elif harm == "lost":
        (folder / "deep" / "a.txt").unlink()
    else:
        (folder / CARD).write_text("{")
    with pytest.raises(AttarError, match=r"damaged|cannot be read"):
        store.get("record", "k")


def test_missing_artifact_is_an_error(store: Store) -> None:
    with pytest.raises(AttarError, match="cannot be read"):
        store.get("record", "nothing")


def test_kill_before_the_rename_leaves_no_artifact_and_can_be_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            _make(store)
    assert not store.has("record", "k")
    _make(store)  # the card that the killed try left in the content is not a file of the artifact
    assert store.get("record", "k").card["seconds"] == 1.5


def test_putting_again_replaces(store: Store) -> None:
    _make(store)
    _make(store, text="other")
    assert (store.get("record", "k").folder / "deep" / "a.txt").read_text() == "other"


def test_work_of_a_killed_try_is_still_there(store: Store) -> None:
    def killed() -> None:
        with store.build("record", "k") as work:
            (work / "checkpoint").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with store.build("record", "k") as work:
        assert (work / "checkpoint").read_text() == "half"


def test_the_second_builder_waits_and_finds_the_result(store: Store) -> None:
    made: list[str] = []

    def build(name: str) -> None:
        with store.build("record", "k") as work:
            if store.has("record", "k"):
                return
            time.sleep(0.1)
            (work / "content").mkdir()
            (work / "content" / "a").write_text(name)
            store.put("record", "k", work / "content", {}, {})
            made.append(name)

    threads = [threading.Thread(target=build, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(made) == 1
    assert (store.get("record", "k").folder / "a").read_text() == made[0]
