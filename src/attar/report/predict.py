"""Say how to use what a run leaves behind."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from attar.report.facts import final_model, text, writes


def predict_command(summary: Mapping[str, Any], run: str = "") -> str:
    """Return the command that asks the run's bundle for one answer.

    Args:
        summary: of the run.
        run: its folder, where that is known; its name by default.

    Example:
        >>> predict_command({"name": "reviews", "task": "text-classification"})
        'attar predict reviews "a text of yours"'
        >>> predict_command({"name": "digits", "task": "image-classification"})
        'attar predict digits picture.png'
    """
    given = run or text(summary.get("name"))
    name = shlex.quote(given) if given else "RUN"
    what = "picture.png" if text(summary.get("task")).startswith("image") else '"a text of yours"'
    return f"attar predict {name} {what}"


def needs(summary: Mapping[str, Any]) -> str:
    """Say which libraries a run's bundle needs to answer.

    Example:
        >>> needs({"models": [{"name": "exported"}]})
        'It answers with onnxruntime, without PyTorch.'
    """
    final = final_model(summary)
    if writes(summary) and final is not None and final.runtime.startswith("onnxruntime"):
        return "It writes with onnxruntime, without PyTorch."
    if writes(summary):
        return "It writes with PyTorch and transformers; any tool that reads their folders reads it too."
    return "It answers with onnxruntime, without PyTorch."
