#!/usr/bin/env python3
"""Write the README's map of the files from the files' own first lines.

    python tools/readme_map.py            writes the map between the markers in README.md
    python tools/readme_map.py --check    writes nothing; exit status 1 if the map is not what the tree says

Every folder of the package has a line, and every file of it: those of the catalogue share their folder's line.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import floors
import marked

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "attar"
CATALOGUE = tuple(name for name, floor in floors.FLOORS.items() if floor == 2)
COLUMN = 26

AROUND = {
    "src/attar/": "the package, below",
    "benchmarks/": "one command a benchmark, with the committed results by machine",
    "docs/": "tutorial (executed by a test), how-to, reference (generated), why",
    "tests/": "mirrors the package; contract/ runs every catalogue entry through its noun's contract",
    "tools/": "what `make check` and `make docs` run: floors, reference, figures, this map",
    ".ci/run": "all of it from nothing: fresh environment, the test line above, lint, types, `pytest --real`",
    "Makefile": "the checks by name",
    "CHANGELOG.md": "what changed, by what users need",
    "CONTRIBUTING.md": "how to work on attar",
}
"""What lies around the package; a line whose path is not there is left out."""


def summary(path: Path) -> str:
    """Return the first line of a file's docstring, without its period."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].replace("``", "").removesuffix(".")


def folders(package: Path) -> list[Path]:
    """Return the folders of the package, from the highest floor down."""
    found = [path for path in sorted(package.iterdir()) if path.is_dir() and path.name != "__pycache__"]
    return sorted(found, key=lambda path: -floors.FLOORS.get(path.name, 0))


def lines(package: Path) -> Iterator[str]:
    """Yield the map of the package: a line a folder, then a line for each file that has no folder's line to share."""
    yield from _files(package, "")
    for folder in folders(package):
        if folder.name == "recipes":
            names = ", ".join(path.stem for path in sorted(folder.glob("*.yaml")))
            yield _line("recipes/", f"Ready recipes: {names}")
            continue
        text = summary(folder / "__init__.py") if (folder / "__init__.py").is_file() else "Data"
        yield _line(f"{folder.name}/", text)
        if folder.name not in CATALOGUE:
            yield from _files(folder, "  ")


def _files(folder: Path, indent: str) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py" or not indent:
            yield _line(f"{indent}{path.name}", summary(path))
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and indent and path.name != "__pycache__"):
        yield _line(f"{indent}{inside.name}/", ", ".join(sorted(path.name for path in inside.iterdir())))


def _line(name: str, text: str) -> str:
    return f"{name:{COLUMN}}{text}"


def render(root: Path) -> str:
    """Return the map as Markdown: what lies around, then the package."""
    around = [_line(name, text) for name, text in AROUND.items() if (root / name).exists()]
    package = list(lines(root / "src" / "attar"))
    open_, close = "<details><summary>Every file of <code>src/attar</code></summary>", "</details>"
    parts = ["```text", *around, "```", "", open_, "", "```text", *package, "```", "", close]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write the map, or tell whether it is stale."""
    parser = argparse.ArgumentParser(description="Write the README's map of the files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the map is stale")
    given = parser.parse_args()
    fresh = marked.update(ROOT / "README.md", "map", render(ROOT), given.check)
    if given.check and not fresh:
        print("README.md: the map of the files is stale. Run: make docs", file=sys.stderr)
        return 1
    print(f"map: README.md {'is fresh' if fresh else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
