"""Take a large model that does a task and return the smallest model that still does it.

    >>> import attar
    >>> result = attar.run("digits")                                     # doctest: +SKIP
    >>> result.summary["verdict"]["result"]                              # doctest: +SKIP
    'INCONCLUSIVE'
    >>> attar.load(result.folder).answer(images)[0].label                # doctest: +SKIP
    '7'

The verbs are imported on first use: ``import attar`` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AttarError", "check", "compare", "export", "load", "run", "show", "tune"]

if TYPE_CHECKING:
    from attar.api import check, compare, export, load, run, show, tune
    from attar.errors import AttarError


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'attar' has no attribute '{name}'")
    home = "attar.errors" if name == "AttarError" else "attar.api"
    return getattr(importlib.import_module(home), name)
