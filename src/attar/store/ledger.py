"""Keep paid answers and what they cost: no answered request is paid twice and no cap is passed, even after a kill."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from attar.store.files import disk_errors
from attar.store.lock import hold
from attar.store.spending import CapReached, Caps, Cost

Outcome = Literal["free", "spoiled", "lost"]
"""How an attempt without a usable answer ended: not billed, billed, or perhaps billed."""


@dataclass(frozen=True)
class Ticket:
    """Stand for one call on its way: its number in the ledger, its request's key and its worst-case cost."""

    number: int
    key: str
    worst: Cost


class Ledger:
    """Keep answers by their request's key, and what was spent, in one append-only file of JSON lines.

    A line is written and synced before each call (``sent``, with its worst-case cost) and after it (``answered``
    with the answer and its cost, or how else it ended). A call without a second line, because the process was
    killed, counts at its worst case. Of two answers to one request the first is kept. Use it inside `held`.

    Args:
        path: the file; a lock lies beside it.

    Example:
        >>> import tempfile, pathlib
        >>> ledger = Ledger(pathlib.Path(tempfile.mkdtemp()) / "ledger.jsonl")
        >>> with ledger.held():
        ...     ticket = ledger.send("key", Cost(1, 100, 1, 0.01), Caps(dollars=1.0))
        ...     ledger.answered(ticket, Cost(1, 20, 1, 0.002), {"text": "yes"})
        >>> ledger.answer("key"), ledger.spent.dollars
        ({'text': 'yes'}, 0.002)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._change = threading.Condition()
        self._handle = -1
        self._clear()
        self.refresh()

    def _clear(self) -> None:
        self._size = 0
        self._torn = False
        self._places: dict[str, tuple[int, int]] = {}  # answers stay on disk: texts with log-probabilities are large
        self._open: dict[int, Ticket] = {}
        self._next = 0
        self.spent = Cost()
        self.unsure = Cost()
        self.duplicates = 0

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def total(self) -> Cost:
        """Return what counts against the caps: what was spent, and lost or open calls at their worst case."""
        with self._change:
            return self._committed()

    def _committed(self) -> Cost:
        return sum((ticket.worst for ticket in self._open.values()), self.spent + self.unsure)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the ledger for this process: another waits, then sees what this one has paid for."""
        with hold(self.path.with_name(self.path.name + ".lock"), f"The ledger {self.path}", wait=True):
            self.refresh()
            with disk_errors(self.path):
                self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                self._forget_open()
                yield
            finally:
                os.close(self._handle)
                self._handle = -1

    def answer(self, key: str) -> dict[str, Any]:
        """Return the answer that was recorded for a request.

        Raises:
            KeyError: it was never answered.
        """
        first, length = self._places[key]
        with disk_errors(self.path), self.path.open("rb") as handle:
            handle.seek(first)
            found: dict[str, Any] = json.loads(handle.read(length))["answer"]
        return found

    def send(self, key: str, worst: Cost, caps: Caps) -> Ticket:
        """Write down that a call is about to be sent; its worst case is set aside until it ends.

        Where only calls on their way stand between this one and a cap, it waits for them.

        Args:
            key: of the request.
            worst: what the call can cost at most.
            caps: what may be spent at most, everything in the ledger counted.

        Raises:
            CapReached: the call might pass a cap.
            AttarError: the disk is full; the call must not be sent, and counts as lost.
        """
        with self._change:
            while (name := caps.passed(self._committed() + worst)) is not None:
                if not self._open:
                    raise CapReached(name)
                self._change.wait()
            ticket = Ticket(self._next, key, worst)
            self._next += 1
            self._open[ticket.number] = ticket
            with self._lost_on_error(ticket.number):
                self._write({"event": "sent", "ticket": ticket.number, "key": key, "worst": asdict(worst)})
        with self._lost_on_error(ticket.number):
            self._sync()  # outside the lock, so that threads share one sync
        return ticket

    def answered(self, ticket: Ticket, cost: Cost, answer: Mapping[str, Any]) -> None:
        """Write down an answer and its cost; a second answer to the same request is counted, not kept."""
        line = {"event": "answered", "ticket": ticket.number, "key": ticket.key, "cost": asdict(cost)}
        self._settle({**line, "answer": answer})

    def failed(self, ticket: Ticket, outcome: Outcome, cost: Cost, why: str) -> None:
        """Write down how a call without a usable answer ended.

        Args:
            ticket: of the call.
            outcome: ``free``, ``spoiled`` or ``lost``.
            cost: what it cost: known if spoiled, the worst case if lost.
            why: a few words.
        """
        self._settle({"event": outcome, "ticket": ticket.number, "key": ticket.key, "cost": asdict(cost), "why": why})

    def _settle(self, line: dict[str, Any]) -> None:
        with self._change:
            with self._lost_on_error(line["ticket"]):
                self._take(line, self._write(line))
            self._change.notify_all()
        self._sync()

    @contextmanager
    def _lost_on_error(self, number: int) -> Iterator[None]:
        """Count a call as lost if its line cannot be written, so that nobody waits for it."""
        try:
            yield
        except BaseException:
            with self._change:
                lost = self._open.pop(number, None)
                self.unsure += lost.worst if lost else Cost()
                self._change.notify_all()
            raise

    def _sync(self) -> None:
        with disk_errors(self.path):
            os.fsync(self._handle)

    def _write(self, line: Mapping[str, Any]) -> tuple[int, int]:
        """Append a line and return its place; what a full disk has torn is closed first."""
        text = json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=False, allow_nan=False)
        data = b"\n" * self._torn + text.encode("utf-8", "replace") + b"\n"
        first, length = self._size, len(data)
        self._torn = True
        with disk_errors(self.path):
            while data:
                written = os.write(self._handle, data)
                self._size += written
                data = data[written:]
        self._torn = False
        return first, length

    def refresh(self) -> None:
        """Read the file again if another process has written to it."""
        with self._change:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size != self._size:
                self._clear()
                if size:
                    self._read()

    def _read(self) -> None:
        with disk_errors(self.path), self.path.open("rb") as handle:
            for data in handle:
                first, self._size = self._size, self._size + len(data)
                self._torn = not data.endswith(b"\n")
                line = _parsed(data)
                if line is not None:
                    self._take(line, (first, len(data)))

    def _take(self, line: Mapping[str, Any], place: tuple[int, int]) -> None:
        """Count one line, just written or read."""
        number, key = line["ticket"], line["key"]
        if line["event"] == "sent":
            self._open[number] = Ticket(number, key, Cost(**line["worst"]))
            self._next = max(self._next, number + 1)
            return
        self._open.pop(number, None)
        cost = Cost(**line["cost"])
        if line["event"] == "lost":
            self.unsure += cost
        elif line["event"] != "free":
            self.spent += cost
        if line["event"] == "answered":
            self.duplicates += key in self._places
            self._places.setdefault(key, place)

    def _forget_open(self) -> None:
        """Count the calls of a killed process as lost: whoever holds the lock knows that no one waits for them."""
        self.unsure = sum((ticket.worst for ticket in self._open.values()), self.unsure)
        self._open.clear()


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Return a line's content, or None for one that a power cut has torn: what it told counts as not told."""
    try:
        line = json.loads(data)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"event", "ticket", "key"} <= line.keys() else None
