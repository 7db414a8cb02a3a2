"""Run commands of the docs as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a runner of ``bash`` or ``python`` text in an empty folder, with this environment's commands first."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ATTAR_RUNS", raising=False)
    folder = tmp_path / "reader"
    folder.mkdir()

    def run(language: str, text: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        return subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, timeout=600)

    return run
