"""Fetch repositories of the Hugging Face hub; its own environment variables give token, cache and address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from attar.errors import AttarError
from attar.optional import lazy
from attar.sources.near import near

huggingface_hub: Any = lazy("huggingface_hub")
constants: Any = lazy("huggingface_hub.constants")
errors: Any = lazy("huggingface_hub.errors")

Repository = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = ("*.safetensors", "*.json", "*.jsonl", "*.txt", "*.model", "*.jinja", "*.csv", "*.tsv", "*.parquet", "*.md")
IMAGES = ("*.png", "*.jpg", "*.jpeg", "*.webp")
NEVER = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.py", "onnx/*", "openvino/*")


def commit(name: str, revision: str | None, repository: Repository = "model") -> str:
    """Return the commit a revision stands for: from the local hub cache, else from the hub.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit; None is the default branch.
        repository: a model's or a data set's repository.

    Raises:
        AttarError: the hub cannot be reached or knows no such repository or revision.

    Example:
        >>> commit("owner/name", "0123456789012345678901234567890123456789")
        '0123456789012345678901234567890123456789'
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    folder = f"{repository}s--{name.replace('/', '--')}"
    known = Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")
    if known.is_file():
        return known.read_text(encoding="ascii").strip()
    try:
        info = huggingface_hub.HfApi().repo_info(name, revision=revision, repo_type=repository)
    except (OSError, ValueError, errors.HTTPError) as error:
        raise _explained(error, name, revision, repository) from error
    return str(info.sha)


def snapshot(name: str, revision: str | None, inside: str | None, repository: Repository = "model") -> Path:
    """Return the local folder of a repository, or one file of it; pickles and code are never downloaded.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit; None is the default branch.
        inside: one file or folder of the repository, or None for all that a model or a data set needs.
        repository: a model's or a data set's repository.

    Raises:
        AttarError: the hub cannot be reached, or knows no such repository, revision or file.
    """
    wanted = [inside, f"{inside}/*"] if inside else [*WANTED, *(IMAGES if repository == "dataset" else ())]
    wanted_commit = commit(name, revision, repository)
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=wanted_commit,
            repo_type=repository,
            allow_patterns=wanted,
            ignore_patterns=list(NEVER),
        )
    except (OSError, ValueError, errors.HTTPError) as error:
        raise _explained(error, name, revision, repository) from error
    folder = Path(found)
    path = folder / inside if inside else folder
    if not path.exists():
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        raise AttarError(f"'{inside}' is not in the {repository} repository {name}.{near(str(inside), names)}")
    return path


def cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model repository in the local hub cache, or None if it is not there."""
    found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _explained(error: Exception, name: str, revision: str | None, repository: Repository) -> AttarError:
    asked = f"the {repository} repository {name}" + (f" at {revision}" if revision else "")
    if isinstance(error, errors.GatedRepoError):
        return AttarError(f"{asked} is gated. Accept its terms on the hub and set HF_TOKEN to a token for it.")
    if isinstance(error, errors.RevisionNotFoundError):
        return AttarError(f"{asked} does not exist: the hub knows the repository, not the revision. Correct it.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return AttarError(f"{asked} does not exist on the hub, or is private. Correct the name, or set HF_TOKEN.")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return AttarError(
        f"{asked} is not in the local hub cache and the hub cannot be reached ({reason}). Connect, or download it "
        "where there is a network and give its path, or name a pypi: source."
    )
