"""Append what happened in a run, one JSON line an event; a torn last line of a killed process is passed over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.store.files import disk_errors


class Journal:
    """Append events to a file and read them back.

    Each event is written with one `write` and synced, so an event is in the journal whole or not at all; a line
    that a power cut has torn is closed by the next writer and passed over by readers.

    Args:
        path: the journal's file.

    Example:
        >>> import tempfile, pathlib
        >>> journal = Journal(pathlib.Path(tempfile.mkdtemp()) / "journal.jsonl")
        >>> journal.add("stage-done", stage="data")
        >>> [event["event"] for event in journal.events()]
        ['stage-done']
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **facts: Any) -> None:
        """Append one event with the time of day."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False) + "\n"
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                os.write(handle, (b"\n" if torn else b"") + line.encode("utf-8"))
                os.fsync(handle)
            finally:
                os.close(handle)

    def events(self, event: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the events in order, all or those of one name."""
        if not self.path.exists():
            return
        # not splitlines, which also splits at U+2028 and the like within a text
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found = json.loads(line)
            except ValueError:  # torn by a power cut; the event it stood for was not finished
                continue
            if isinstance(found, dict) and (event is None or found.get("event") == event):
                yield found
