"""Speak to people on stderr: lines, and progress bars that become plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_SECONDS = 15.0  # between two plain progress lines: a log stays readable, a hang still shows


def console() -> Console:
    """Return the console for people's words (stderr); data goes to stdout by `print`."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line for people on stderr."""
    console().print(message, markup=False)


class Meter(Protocol):
    """Take the steps of a long work: `advance` moves the bar, `note` shows a short text beside it."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move on by ``count`` steps and show ``note``."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the steps a second."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="cyan")


class _Bar:
    def __init__(self, progress: Progress, total: int, done: int, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the bar."""
        self._progress.update(self._task, advance=count, note=note)


class _Lines:
    def __init__(self, total: int, done: int, title: str) -> None:
        self._total, self._done, self._title = total, done, title
        self._first, self._begin = done, time.monotonic()
        self._spoke = self._begin

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count on, and say a line where the last one is long ago."""
        self._done += count
        now = time.monotonic()
        if now - self._spoke < PLAIN_SECONDS:
            return
        self._spoke = now
        rate = (self._done - self._first) / (now - self._begin)
        left = (self._total - self._done) / rate if rate else 0.0
        beside = f"  {note}" if note else ""
        say(f"  {self._title}: {self._done}/{self._total}, {rate:.1f}/s, {left:.0f} s left{beside}")


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Show the progress of a long work on stderr.

    Args:
        title: what is being done.
        total: number of steps in all.
        done: steps that an earlier try has finished.

    Yields:
        A `Meter`: a bar with rate and time left on a terminal, else a plain line every 15 seconds.
    """
    if not sys.stderr.isatty():
        yield _Lines(total, done, title)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(), transient=True) as bars:
        yield _Bar(bars, total, done, title)
