"""Know the models of `timm` and `torchvision` by name, without importing either (each imports torch)."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from attar.errors import AttarError
from attar.sources.near import near

REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n|[ )][^\n]*\n)*?def (\w+)", re.MULTILINE)


@cache
def model_names(library: str) -> frozenset[str]:
    """Return the names that a library's source registers; empty if it is not installed."""
    found = find_spec(library)
    if found is None or found.origin is None:
        return frozenset()
    files = (Path(found.origin).parent / "models").rglob("*.py")
    return frozenset(name for path in files for name in REGISTERED.findall(path.read_text("utf-8", "replace")))


def check_name(library: str, name: str) -> None:
    """Refuse a model that the library has not, before anything is trained or downloaded.

    Args:
        library: ``"timm"`` or ``"torchvision"``.
        name: the model's name there; timm's may end with a dot and the tag of its weights.

    Raises:
        AttarError: the library is not installed, or has no such model; the message suggests the nearest.
    """
    if find_spec(library) is None:
        raise AttarError(
            f"'{library}:{name}' needs the library '{library}', which is not installed. "
            "Run: pip install 'attar[vision]'"
        )
    known = model_names(library)
    if known and name.partition(".")[0] not in known:
        raise AttarError(f"{library} has no model '{name}'.{near(name, known, 'Some are')}")
