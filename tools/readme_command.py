#!/usr/bin/env python3
"""Print a command of the README, so that what is tested and what is promised cannot differ.

    python tools/readme_command.py test

Standard library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def command(text: str, name: str) -> str:
    """Return the one line in the block after the marker ``<!-- command:name -->``.

    Raises:
        ValueError: there is no such block, or it has more than one line.
    """
    found = re.search(rf"<!-- command:{re.escape(name)} -->\n```bash\n(.+)\n```", text)
    if found is None:
        raise ValueError(f"README.md has no one-line command '{name}'")
    return found.group(1)


if __name__ == "__main__":
    print(command(README.read_text(encoding="utf-8"), sys.argv[1]))
