"""Generated parts are what the code and the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tool", ["reference", "figures", "readme_map"])
def test_generated_part_is_fresh(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_map_covers_every_file_and_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme.partition("<summary>Every file")[2].partition("</details>")[0].splitlines()
    folder, shown = "", set()
    for name, indented in ((line.split()[0], line.startswith(" ")) for line in lines if line.strip()):
        folder = folder if indented else name if name.endswith("/") else ""
        shown.add(f"{folder}{name}" if indented else name)
    package = ROOT / "src" / "attar"
    files = {path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py"}
    catalogue = {"tasks", "teachers", "students", "objectives", "prompts", "compressors", "meters", "exporters"}
    missing = [
        str(path)
        for path in sorted(files)
        if not (f"{path.parts[0]}/" in shown and path.parts[0] in catalogue) and path.as_posix() not in shown
    ]
    folders = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert missing == []
    assert folders <= shown


def test_table_of_figures(tmp_path: Path) -> None:
    machine = {"processor": "Some Processor", "cores": 2}
    found = {"teacher_accuracy": 0.8769, "p50_ratio": 0.05, "other": {"inner": 1.5}}
    result = {"benchmark": "reviews", "commit": "0123456789", "machine": machine, "figures": found}
    (tmp_path / "reviews.some.json").write_text(json.dumps(result), encoding="utf-8")
    said = figures.table(figures.results(tmp_path))
    assert "teacher **87.7 %**" in said
    assert "latency at batch 1 (p50) **1/20.0 of the teacher's**" in said
    assert "other.inner **1.5**" in said
    assert "`0123456`" in said


def test_table_without_results_says_so(tmp_path: Path) -> None:
    assert figures.table(figures.results(tmp_path)) == figures.EMPTY
