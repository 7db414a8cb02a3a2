"""Hold settings: the base of every settings object, and where attar keeps its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Check a group of settings on creation: unknown keys are refused, values never change afterwards.

    Every algorithm of the catalogue has one such class; its fields are the keys a recipe may use.

    Raises:
        pydantic.ValidationError: on an unknown key or a value out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Use(Settings):
    """Choose an algorithm of the catalogue by its short name, with its own settings beside.

    Example:
        >>> Use(use="forward_kl", temperature=2).settings
        {'temperature': 2}
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="the registered name")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings given beside the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


def cache_folder() -> Path:
    """Return the folder that holds artifacts for all runs (``ATTAR_CACHE`` moves it).

    Example:
        >>> import os; os.environ["ATTAR_CACHE"] = "/tmp/attar-example"
        >>> str(cache_folder())
        '/tmp/attar-example'
        >>> del os.environ["ATTAR_CACHE"]
    """
    given = os.environ.get("ATTAR_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "attar"


def runs_folder() -> Path:
    """Return the folder that holds runs: ``ATTAR_RUNS``, else ``runs`` in the working folder."""
    given = os.environ.get("ATTAR_RUNS")
    return Path(given).expanduser() if given else Path("runs")
