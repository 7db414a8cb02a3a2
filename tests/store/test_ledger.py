from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from attar.errors import AttarError
from attar.store.ledger import Ledger
from attar.store.spending import CapReached, Caps, Cost

WORST = Cost(1, 100, 10, 0.5)
REAL = Cost(1, 20, 3, 0.125)
NONE = Caps()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "ledger.jsonl"


def _events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_intent_is_on_disk_before_the_call_and_the_answer_after_it(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.held():
        ticket = ledger.send("a", WORST, NONE)
        assert _events(path) == ["sent"]
        ledger.answered(ticket, REAL, {"text": "yes"})
        assert _events(path) == ["sent", "answered"]


def test_answers_and_sums_survive_a_restart(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.held():
        ledger.answered(ledger.send("a", WORST, NONE), REAL, {"text": "ü\u2028\n", "logprobs": [["x", -0.1]]})
        ledger.failed(ledger.send("b", WORST, NONE), "lost", WORST, "time-out")
        ledger.failed(ledger.send("b", WORST, NONE), "free", Cost(), "status 429")
        ledger.failed(ledger.send("b", WORST, NONE), "spoiled", REAL, "wrong JSON")
    again = Ledger(path)
    for one in (ledger, again):
        assert one.answer("a") == {"text": "ü\u2028\n", "logprobs": [["x", -0.1]]}
        assert "a" in one
        assert "b" not in one
        assert one.spent == REAL + REAL
        assert one.unsure == WORST
        assert one.total == Cost(3, 140, 16, 0.75)
    with pytest.raises(KeyError):
        again.answer("b")


def test_a_call_of_a_killed_process_counts_at_its_worst_case(path: Path) -> None:
    killed = Ledger(path)
    with killed.held():
        killed.send("a", WORST, NONE)
    after = Ledger(path)
    assert after.total == WORST
    with after.held():
        assert after.unsure == WORST
        with pytest.raises(CapReached, match="calls"):
            after.send("b", WORST, Caps(calls=1))
        after.answered(after.send("a", WORST, Caps(calls=2)), REAL, {})
    assert after.total == WORST + REAL
    assert Ledger(path).total == WORST + REAL


@pytest.mark.parametrize("cut", [2, 5, 40])
def test_a_half_written_last_line_is_passed_over_and_closed(path: Path, cut: int) -> None:
    ledger = Ledger(path)
    with ledger.held():
        ledger.answered(ledger.send("a", WORST, NONE), REAL, {"text": "first"})
        ledger.answered(ledger.send("b", WORST, NONE), REAL, {"text": "second"})
    path.write_bytes(path.read_bytes()[:-cut])
    after = Ledger(path)
    assert "b" not in after
    assert after.total == REAL + WORST
    with after.held():
        after.answered(after.send("b", WORST, NONE), REAL, {"text": "third"})
    for one in (after, Ledger(path)):
        assert (one.answer("a")["text"], one.answer("b")["text"]) == ("first", "third")
        assert one.total == REAL + WORST + REAL


def test_a_last_line_that_lacks_only_its_end_is_whole(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.held():
        ledger.answered(ledger.send("a", WORST, NONE), REAL, {"text": "first"})
    path.write_bytes(path.read_bytes()[:-1])
    after = Ledger(path)
    with after.held():
        after.answered(after.send("b", WORST, NONE), REAL, {"text": "second"})
    for one in (after, Ledger(path)):
        assert (one.answer("a")["text"], one.answer("b")["text"]) == ("first", "second")
        assert one.total == REAL + REAL


def test_of_two_answers_the_first_is_kept_and_both_are_paid(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.held():
        for text in ("first", "second"):
            ledger.answered(ledger.send("a", WORST, NONE), REAL, {"text": text})
    for one in (ledger, Ledger(path)):
        assert one.answer("a") == {"text": "first"}
        assert one.duplicates == 1
        assert one.spent == REAL + REAL


@pytest.mark.parametrize("caps", [Caps(calls=2), Caps(tokens=220), Caps(dollars=1.0)], ids=lambda caps: repr(caps))
def test_no_cap_is_passed_by_calls_on_their_way(path: Path, caps: Caps) -> None:
    ledger = Ledger(path)
    most = Cost()

    def call(key: str) -> None:
        nonlocal most
        try:
            ticket = ledger.send(key, WORST, caps)
        except CapReached:
            return
        most = max(most, ledger.total, key=lambda cost: cost.calls)
        time.sleep(0.01)
        ledger.answered(ticket, WORST, {})

    with ledger.held():
        threads = [threading.Thread(target=call, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ledger) == 2
    assert most == ledger.total == WORST + WORST


def test_a_call_waits_for_those_on_their_way_and_takes_the_room_they_leave(path: Path) -> None:
    ledger = Ledger(path)
    caps = Caps(tokens=200)
    with ledger.held():
        first = ledger.send("a", WORST, caps)
        second: list[object] = []
        thread = threading.Thread(target=lambda: second.append(ledger.send("b", WORST, caps)))
        thread.start()
        time.sleep(0.05)
        assert second == []
        ledger.answered(first, REAL, {})
        thread.join(5)
        assert len(second) == 1


def test_a_second_process_sees_what_the_first_has_paid(path: Path) -> None:
    one, two = Ledger(path), Ledger(path)
    with one.held():
        one.answered(one.send("a", WORST, NONE), REAL, {"text": "yes"})
    assert "a" not in two
    with two.held():
        assert two.answer("a") == {"text": "yes"}


def test_a_full_disk_is_a_users_error_and_leaves_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with ledger.held():
        ticket = ledger.send("a", WORST, NONE)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(AttarError, match="No space is left"):
                ledger.answered(ticket, REAL, {})
        with pytest.raises(CapReached):
            ledger.send("b", WORST, Caps(calls=1))
        ledger.answered(ledger.send("b", WORST, NONE), REAL, {"text": "later"})
    assert Ledger(path).answer("b") == {"text": "later"}


def test_a_line_torn_by_a_full_disk_harms_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    write = os.write

    def half(handle: int, data: bytes) -> int:
        if data.startswith(b'{"time"'):
            return write(handle, data[:20])
        raise OSError(28, "No space left on device")

    with ledger.held():
        first, second = ledger.send("a", WORST, NONE), ledger.send("b", WORST, NONE)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(AttarError, match="No space is left"):
                ledger.answered(first, REAL, {"text": "torn"})
        ledger.answered(second, REAL, {"text": "whole"})
    for one in (ledger, Ledger(path)):
        assert one.answer("b") == {"text": "whole"}
        assert "a" not in one
        assert one.total == WORST + REAL


def test_who_waits_for_a_call_learns_that_a_full_disk_lost_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(CapReached):
            ledger.send("b", WORST, Caps(calls=1))
        ended.set()

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with ledger.held():
        ticket = ledger.send("a", WORST, Caps(calls=1))
        threading.Thread(target=wait, daemon=True).start()
        time.sleep(0.05)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(AttarError):
            ledger.answered(ticket, REAL, {})
        assert ended.wait(5)


def _full(*given: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_call_that_cannot_be_written_down_is_not_sent_and_nobody_waits_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    ledger = Ledger(path)
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(CapReached):
            ledger.send("b", WORST, Caps(calls=1))
        ended.append("b")

    with ledger.held():
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _full)
            with pytest.raises(AttarError, match="No space is left"):
                ledger.send("a", WORST, Caps(calls=1))
        assert ledger.total == ledger.unsure == WORST
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(5)
        assert ended == ["b"]
        ledger.answered(ledger.send("b", WORST, NONE), REAL, {"text": "later"})
    assert Ledger(path).answer("b") == {"text": "later"}


def test_who_waits_already_learns_that_a_call_could_not_be_written_down(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(path)
    waits, ended = threading.Event(), threading.Event()

    def wait() -> None:
        with pytest.raises(CapReached):
            ledger.send("b", WORST, Caps(calls=1))
        ended.set()

    def fails_late(handle: int) -> None:
        threading.Thread(target=wait, daemon=True).start()
        waits.wait(0.1)
        _full()

    with ledger.held():
        monkeypatch.setattr(os, "fsync", fails_late)
        with pytest.raises(AttarError):
            ledger.send("a", WORST, Caps(calls=1))
        assert ended.wait(5)


def test_a_disk_that_cannot_sync_an_answer_is_a_users_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    with ledger.held():
        ticket = ledger.send("a", WORST, NONE)
        monkeypatch.setattr(os, "fsync", _full)
        with pytest.raises(AttarError, match="No space is left"):
            ledger.answered(ticket, REAL, {})
    assert ledger.total == REAL


def test_lines_are_synced_before_the_call_and_after_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[str]] = []
    ledger = Ledger(path)
    with ledger.held():
        monkeypatch.setattr(os, "fsync", lambda handle: synced.append(_events(path)))
        ticket = ledger.send("a", WORST, NONE)
        assert synced == [["sent"]]
        ledger.answered(ticket, REAL, {})
        assert synced[1:] == [["sent", "answered"]]


def test_foreign_lines_are_passed_over(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n[1]\n\xff\xfe\n')
    assert Ledger(path).total == Cost()


def test_only_the_user_reads_the_ledger(path: Path) -> None:
    with Ledger(path).held():
        assert path.stat().st_mode & 0o077 == 0


def test_costs_add_and_subtract_part_by_part() -> None:
    both = WORST + REAL
    assert both == Cost(2, 120, 13, 0.625)
    assert both - REAL == WORST


def test_a_cap_that_is_met_exactly_is_not_passed() -> None:
    tenths = sum((Cost(dollars=0.1) for _ in range(3)), Cost())
    assert tenths.dollars > 0.3  # in floats
    assert Caps(dollars=0.3).passed(tenths) is None
    assert Caps(dollars=0.3).passed(Cost(dollars=0.301)) == "dollars"
    assert Caps(calls=0).passed(Cost(calls=1)) == "calls"
    assert Caps(tokens=5).passed(Cost(1, 3, 3)) == "tokens"
    assert NONE.passed(Cost(10**9, 10**9, 10**9, 1e9)) is None
