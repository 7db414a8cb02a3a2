"""Say how to use what a run leaves behind."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from attar.report.facts import text


def predict_command(summary: Mapping[str, Any]) -> str:
    """Return the command that asks the run's bundle for one answer.

    Example:
        >>> predict_command({"name": "reviews", "task": "text-classification"})
        'attar predict reviews "a text of yours"'
        >>> predict_command({"name": "digits", "task": "image-classification"})
        'attar predict digits picture.png'
    """
    name = shlex.quote(text(summary.get("name"))) if text(summary.get("name")) else "RUN"
    what = "picture.png" if text(summary.get("task")).startswith("image") else '"a text of yours"'
    return f"attar predict {name} {what}"
