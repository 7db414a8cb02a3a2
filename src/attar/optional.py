"""Import heavy libraries on first use, and name the extra of a missing optional one."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from attar.errors import AttarError


class LazyModule(ModuleType):
    """Stand for a module until an attribute of it is used.

    `attar check` reads the settings of every algorithm without paying for the import of torch: the files of the
    catalogue name torch through this class and import it with their first tensor.

    Example:
        >>> lazy("math").floor(1.5)
        1
    """

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def lazy(name: str) -> Any:
    """Return a stand-in for the module ``name`` that imports it with the first use of an attribute."""
    return LazyModule(name)


def require(module: str, extra: str, purpose: str) -> Any:
    """Import an optional library, or say which extra brings it.

    Args:
        module: what to import, for example ``"timm"``.
        extra: the extra of attar that installs it.
        purpose: what needed it, as the subject of the sentence.

    Raises:
        AttarError: the library is not installed.

    Example:
        >>> require("json", "none", "the example").dumps(1)
        '1'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        raise AttarError(
            f"{purpose} needs the library '{module}', which is not installed. Run: pip install 'attar[{extra}]'"
        ) from missing
