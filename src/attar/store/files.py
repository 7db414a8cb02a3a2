"""Write files so that a kill at any instant leaves the old content or the new, never a half."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.errors import AttarError

BLOCK = 1 << 20


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a user error that names the place.

    Raises:
        AttarError: no space is left, the quota is spent, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AttarError(
                f"No space is left on the disk of {target}. Free some, or move the cache with ATTAR_CACHE, then run "
                "the same command again: it goes on where it was."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"{target} cannot be written ({error.strerror})."
            raise AttarError(f"{reason} Choose a folder you may write.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise AttarError(
                f"{target} cannot be written: {error.filename} is in its place ({error.strerror}). Choose another "
                "folder (--folder for a run, ATTAR_CACHE for the cache)."
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut; a rename alone may outlive what it renames."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its place, then rename it there.

    Args:
        path: the file to write; its folder is made.
        data: the whole content.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AttarError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AttarError(f"{path} cannot be read as JSON: {error}.") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_tree(folder: Path) -> str:
    """Return one SHA-256 for all files of a folder: their relative names and contents, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
