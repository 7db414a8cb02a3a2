"""Hold a folder for one process; a process that dies lets go at once (the kernel holds the lock)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attar.errors import AttarError
from attar.store.files import disk_errors


@contextmanager
def hold(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Args:
        path: the lock file; it is made and stays afterwards.
        what: what is locked, for the message.
        wait: wait for another holder instead of refusing.

    Raises:
        AttarError: another live process holds it and ``wait`` is false.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as busy:
            owner = os.pread(handle, 64, 0).decode("ascii", "replace").strip() or "unknown"
            raise AttarError(f"{what} is in use by process {owner}. Wait for it, or stop it and run again.") from busy
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(handle)
