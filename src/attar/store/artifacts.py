"""Keep each stage's result once, under a key made of everything that it depends on.

An artifact is a folder with an ``artifact.json`` that names its files and their checksums. It is built in a
work folder and renamed into place when it is whole: if it has a name, it is complete. Work folders survive a
kill and hold the checkpoints that the next try goes on from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.store.files import disk_errors, read_json, remove, sha256_file, sync_file, sync_folder, write_json
from attar.store.lock import hold

CARD = "artifact.json"
SCHEMA = 1


def make_key(**parts: Any) -> str:
    """Return the content key of a stage: equal parts give an equal key, any change another one.

    Args:
        parts: JSON values; mappings are sorted by name.

    Returns:
        32 hex digits (128 bits of SHA-256).

    Example:
        >>> make_key(stage="a", seed=1) == make_key(seed=1, stage="a")
        True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


@dataclass(frozen=True)
class Artifact:
    """Point at a finished result in the store.

    Args:
        key: its content key.
        kind: what it is, for example ``"record"``.
        folder: where its files lie.
        parents: role -> key of the artifacts it was made from.
        card: facts about it, JSON values; ``seconds`` is the time its making took.
    """

    key: str
    kind: str
    folder: Path
    parents: Mapping[str, str]
    card: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Return the seconds that making it took, all tries together."""
        return float(self.card.get("seconds", 0.0))


class Store:
    """Find, build and verify artifacts under one folder.

    Args:
        root: the store's folder; see `attar.settings.cache_folder`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, key: str) -> Path:
        """Return where the artifact of this key lies or would lie."""
        return self.root / "artifacts" / f"{kind}-{key}"

    def has(self, kind: str, key: str) -> bool:
        """Tell whether the artifact is there, without verifying its files."""
        return (self.path(kind, key) / CARD).is_file()

    def get(self, kind: str, key: str) -> Artifact:
        """Return a finished artifact after verifying every checksum.

        Raises:
            AttarError: it is missing, or a file of it was changed or lost.
        """
        folder = self.path(kind, key)
        card = read_json(folder / CARD)
        for name, sha256 in card["files"].items():
            path = folder / name
            if not path.is_file() or sha256_file(path) != sha256:
                raise AttarError(
                    f"{path} is damaged: its content is not what was stored. Remove the folder {folder} and run again: "
                    "attar makes it anew."
                )
        return Artifact(card["key"], card["kind"], folder, card["parents"], card["card"])

    @contextmanager
    def build(self, kind: str, key: str) -> Iterator[Path]:
        """Hold the work folder of an artifact while it is being made.

        Two runs that need the same artifact do not make it twice: the second waits here and then finds it.

        Yields:
            The work folder; what an earlier, killed try has left in it is still there.
        """
        with hold(self.root / "locks" / f"{kind}-{key}.lock", f"the making of {kind} {key}", wait=True):
            work = self.root / "work" / f"{kind}-{key}"
            with disk_errors(work):
                work.mkdir(parents=True, exist_ok=True)
            yield work

    def put(self, kind: str, key: str, content: Path, parents: Mapping[str, str], card: Mapping[str, Any]) -> Artifact:
        """Turn a folder of finished files into an artifact, in one rename.

        Args:
            kind: what it is.
            key: its content key.
            content: folder on the store's disk with the artifact's files; it is moved.
            parents: role -> key of what it was made from.
            card: facts about it.

        Returns:
            The artifact, in place.
        """
        stale = content / CARD  # of a try that was killed between the card and the rename
        files = {p.relative_to(content).as_posix(): p for p in sorted(content.rglob("*")) if p.is_file() and p != stale}
        with disk_errors(content):
            for path in files.values():
                sync_file(path)
            checksums = {name: sha256_file(path) for name, path in files.items()}
            names = {"schema": SCHEMA, "key": key, "kind": kind, "parents": dict(parents), "card": dict(card)}
            body = {**names, "files": checksums}
            write_json(content / CARD, body)
            target = self.path(kind, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove(target)
            os.replace(content, target)
            sync_folder(target.parent)
        return Artifact(key, kind, target, dict(parents), dict(card))

    def discard_work(self, kind: str, key: str) -> None:
        """Remove the work folder of a finished artifact."""
        remove(self.root / "work" / f"{kind}-{key}")
