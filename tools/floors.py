#!/usr/bin/env python3
"""Check the floors of the package: imports go down only, and folders on one floor do not import each other.

    python tools/floors.py            prints every violation; exit status 1 if there is one
    python tools/floors.py --map      prints the floors

Imports inside functions count; those under ``if TYPE_CHECKING`` do not. Names in ``catalog.py`` are strings that are
imported on first use: they are no imports, which is how a low floor may name a high one. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "attar"

FLOORS: dict[str, float] = {
    **dict.fromkeys(("errors", "settings", "catalog", "seeds", "optional", "log", "recipes"), 0),
    "core": 1.0,
    "store": 1.1,
    "sources": 1.2,
    **dict.fromkeys(
        ("tasks", "teachers", "students", "objectives", "prompts", "compressors", "meters", "exporters"), 2
    ),
    "stages": 3,
    "pipeline": 4,
    "search": 5,
    "report": 6.0,
    "serve": 6.0,
    "api": 6.1,
    "__init__": 6.2,
    "cli": 6.3,
    "__main__": 6.4,
}
"""Folder or file of the package -> its floor. Floors 1 and 6 have half floors, from the lowest up."""

HEAVY = {
    *("torch", "torchvision", "timm", "transformers", "accelerate", "peft", "datasets"),
    *("onnx", "onnxruntime", "onnxscript"),
}
"""Libraries that no module imports when it is loaded: `attar check` answers before they would be there."""


@dataclass(frozen=True)
class Import:
    """Point at one import: the module it names, the line it stands on, and whether it runs when the file is loaded."""

    target: str
    line: int
    at_load: bool


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file, relative to the package: ``""`` for the package's own ``__init__``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[Import]:
    """Yield every import of a file but those for the type checker."""
    stack: list[tuple[ast.AST, bool]] = [(tree, True)]
    while stack:
        node, at_load = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += [(child, at_load) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(f"{base}.{alias.name}", node.lineno, at_load) for alias in node.names)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        stack += [(child, at_load and not inside) for child in ast.iter_child_nodes(node)]


def resolve(target: str, known: Iterable[str]) -> str | None:
    """Return the module of the package that an imported name lies in; None for another library."""
    head, _, rest = target.partition(".")
    if head != PACKAGE:
        return None
    while rest and rest not in known:
        rest = rest.rpartition(".")[0]
    return rest


def place(module: str) -> str:
    """Return the folder or file of the package that a module lies in."""
    return module.split(".")[0] or "__init__"


def violations(found: Mapping[str, list[Import]]) -> Iterator[str]:
    """Yield a sentence for each rule that an import breaks.

    Args:
        found: module -> its imports.
    """
    for module, rows in sorted(found.items()):
        here = place(module)
        if here not in FLOORS:
            yield f"{PACKAGE}/{here} has no floor. Give it one in FLOORS."
            continue
        for row in sorted(rows, key=lambda row: row.line):
            yield from _broken(module, here, row, found)


def _broken(module: str, here: str, row: Import, found: Mapping[str, list[Import]]) -> Iterator[str]:
    where = f"{PACKAGE}.{module}:{row.line}" if module else f"{PACKAGE}:{row.line}"
    if row.at_load and row.target.split(".")[0] in HEAVY:
        rule = "import it where it is used, or through attar.optional.lazy"
        yield f"{where} imports {row.target} when it is loaded; {rule}."
    if row.target.startswith("."):
        yield f"{where} imports relatively; give the whole name."
    target = resolve(row.target, found)
    if target is None:
        return
    there = place(target)
    low, high = FLOORS[here], FLOORS.get(there, 0)
    if high > low:
        yield f"{where} (floor {low:g}) imports {row.target} from the higher floor {high:g}."
    elif high == low and here != there and high > 0:
        yield f"{where} imports {row.target}: the folders {here} and {there} share floor {low:g}."


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (strongly connected, by Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            group, stack[cut:] = stack[cut:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def check(root: Path) -> list[str]:
    """Return all that is wrong with the floors of a package."""
    files = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    found = {module: list(imports(ast.parse(path.read_text(encoding="utf-8")))) for module, path in files.items()}
    graph = {
        module: {t for row in rows if (t := resolve(row.target, found)) is not None and t not in (module, "")}
        for module, rows in found.items()
    }
    rounds = [f"import circle: {', '.join(f'{PACKAGE}.{name}' for name in group)}." for group in circles(graph)]
    return [*violations(found), *rounds]


def main() -> int:
    """Print the violations, or the floors."""
    parser = argparse.ArgumentParser(description="Check the floors of the package.")
    parser.add_argument("--map", action="store_true", help="print the floors")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT / "src" / PACKAGE)
    given = parser.parse_args()
    if given.map:
        for floor in sorted(set(FLOORS.values()), reverse=True):
            print(f"{floor:>4g}  {'  '.join(name for name, at in FLOORS.items() if at == floor)}")
        return 0
    wrong = check(given.root)
    print("\n".join(wrong) if wrong else f"floors: {len(list(given.root.rglob('*.py')))} files, no violation")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
