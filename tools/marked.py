"""Replace a part of a Markdown file between two markers."""

from __future__ import annotations

from pathlib import Path


def between(text: str, name: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the markers ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: a marker is missing.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the markers of '{name}' are missing")
    head, _, rest = text.partition(begin)
    inside, _, tail = rest.partition(end)
    return head + begin, inside, end + tail


def update(path: Path, name: str, wanted: str, check: bool) -> bool:
    """Put a text between the markers of a file.

    Args:
        path: the file.
        name: of the markers.
        wanted: what should stand there.
        check: write nothing.

    Returns:
        Whether it stood there already.
    """
    head, inside, tail = between(path.read_text(encoding="utf-8"), name)
    if inside == wanted:
        return True
    if not check:
        path.write_text(head + wanted + tail, encoding="utf-8")
    return False
