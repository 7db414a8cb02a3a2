"""The floors hold, and the tool that says so sees what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "floors.py"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(folder)], capture_output=True, text=True)


def test_package_keeps_its_floors() -> None:
    done = run(ROOT / "src" / "attar")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("core/a.py", "from attar.stages.loop import Loop", "higher floor 3"),
        ("core/a.py", "def f():\n    import attar.stages.loop", "higher floor 3"),
        ("core/a.py", "from attar import __version__", "higher floor 6.2"),
        ("tasks/a.py", "from attar.meters.b import x", "folders tasks and meters share floor 2"),
        ("stages/a.py", "import torch", "when it is loaded"),
        ("stages/a.py", "class A:\n    import torch", "when it is loaded"),
        ("stages/a.py", "from . import loop", "relatively"),
        ("attic/a.py", "", "has no floor"),
    ],
)
def test_violation_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    for other in ("stages/loop.py", "meters/b.py", "__init__.py", name):
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if other == name else "", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n    from attar.pipeline.x import y",
        "def f():\n    import torch",
        "from attar import errors\nfrom attar.stages.loop import Loop",
        "NAME = 'attar.pipeline.x:Y'",
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, text: str) -> None:
    for other in ("errors.py", "stages/loop.py", "pipeline/x.py", "stages/a.py"):
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if other == "stages/a.py" else "", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout


def test_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / "stages" / f"{one}.py").write_text(f"def f():\n    import attar.stages.{other}", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "import circle: attar.stages.a, attar.stages.b, attar.stages.c." in done.stdout
