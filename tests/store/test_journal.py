from __future__ import annotations

import threading
from pathlib import Path

from attar.store.journal import Journal


def test_no_journal_has_no_events(tmp_path: Path) -> None:
    assert list(Journal(tmp_path / "journal.jsonl").events()) == []


def test_events_come_back_in_order_and_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "journal.jsonl")
    journal.add("start", n=1)
    journal.add("done", text="ü\nline")
    journal.add("start", n=2)
    assert [event["n"] for event in journal.events("start")] == [1, 2]
    assert next(iter(journal.events("done")))["text"] == "ü\nline"
    assert len(list(journal.events())) == 3


def test_a_torn_last_line_is_passed_over_and_closed_by_the_next_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("first")
    journal.add("torn", facts="x" * 50)
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-20])
    assert [event["event"] for event in journal.events()] == ["first"]
    journal.add("after")
    assert [event["event"] for event in journal.events()] == ["first", "after"]


def test_a_tear_within_a_letter_harms_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("first")
    with journal.path.open("ab") as handle:
        handle.write('{"event": "ü'.encode()[:-1])
    journal.add("after")
    assert [event["event"] for event in journal.events()] == ["first", "after"]


def test_line_separators_within_a_text_do_not_split_an_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("first", text="one\u2028two\x85three\x0cfour")
    assert [event["text"] for event in journal.events()] == ["one\u2028two\x85three\x0cfour"]


def test_two_writers_lose_no_event(tmp_path: Path) -> None:
    def write(name: str) -> None:
        journal = Journal(tmp_path / "journal.jsonl")
        for i in range(25):
            journal.add(name, n=i)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal = Journal(tmp_path / "journal.jsonl")
    assert [e["n"] for e in journal.events("a")] == list(range(25))
    assert [e["n"] for e in journal.events("b")] == list(range(25))
