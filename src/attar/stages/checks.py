"""Hold what a check before training saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """Hold one check: its name, whether it passed, what was seen."""

    name: str
    passed: bool
    value: str

    def to_json(self) -> dict[str, Any]:
        """Return the check by name."""
        return {"name": self.name, "passed": self.passed, "value": self.value}
