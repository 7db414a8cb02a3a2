#!/usr/bin/env python3
"""Generate the reference pages from the code.

python tools/reference.py            writes docs/reference/{recipe,cli,catalogue}.md
python tools/reference.py --check    writes nothing; exit status 1 if a page is not what the code says
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"recipe.md": pages.recipe_page, "cli.md": pages.cli_page, "catalogue.md": pages.catalogue_page}


def main() -> int:
    """Write the pages, or tell which are stale."""
    parser = argparse.ArgumentParser(description="Generate the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is stale")
    given = parser.parse_args()
    folder = ROOT / "docs" / "reference"
    stale = []
    for name, write in PAGES.items():
        path, text = folder / name, write()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT))
        if not given.check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if given.check and stale:
        print(f"stale: {', '.join(map(str, stale))}. Run: make docs", file=sys.stderr)
        return 1
    print(f"reference: {len(PAGES)} pages, {len(stale)} {'stale' if given.check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
