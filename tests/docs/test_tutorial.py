"""The tutorial and the README's example run as they stand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from markdown_blocks import ROOT, blocks

TUTORIAL = ROOT / "docs" / "tutorial" / "first-run.md"
Shell = Callable[..., subprocess.CompletedProcess[str]]


def test_fast_blocks_of_the_tutorial(shell: Shell) -> None:
    fast = [block for block in blocks(TUTORIAL) if block.mark == "fast"]
    said = [shell(block.language, block.text) for block in fast]
    assert [done.stderr for done in said if done.returncode != 0] == []
    assert "digits" in said[0].stdout
    assert "no mistakes found" in said[1].stdout
    assert "Did you mean 'layers'?" in said[-1].stderr
    assert not any("Traceback" in done.stderr for done in said)


@pytest.mark.real
def test_whole_tutorial(shell: Shell) -> None:
    for block in blocks(TUTORIAL):
        if block.language not in ("bash", "python"):
            continue
        done = shell(block.language, block.text)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        if "zero.png" in block.text and block.language == "bash":
            assert json.loads(done.stdout)["label"] == "0"


@pytest.mark.real
def test_python_example_of_the_readme(shell: Shell) -> None:
    example = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len(example.text.strip().splitlines()) <= 22
    done = shell("python", example.text)
    assert done.returncode == 0, done.stderr
    assert "student over control: " in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "['0', '1', '2', '3', '4']"
