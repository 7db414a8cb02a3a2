"""Name stages of which a run may have several: teacher, teacher_2, teacher_3."""

from __future__ import annotations

import re
from collections.abc import Iterable


def numbered(kind: str, place: int) -> str:
    """Return the name of the stage at a place, from 1; the first has no number.

    Example:
        >>> numbered("teacher", 1), numbered("teacher", 2)
        ('teacher', 'teacher_2')
    """
    return kind if place == 1 else f"{kind}_{place}"


def parted(name: str) -> tuple[str, int]:
    """Return a stage's kind and place.

    Example:
        >>> parted("record_assistant_3"), parted("record")
        (('record_assistant', 3), ('record', 1))
    """
    found = re.fullmatch(r"(.+)_(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 1)


def of_kind(kind: str, names: Iterable[str]) -> list[str]:
    """Return the names of one kind, in their order.

    Example:
        >>> of_kind("teacher", ["data", "teacher", "teacher_2", "record"])
        ['teacher', 'teacher_2']
    """
    return [name for name in names if parted(name)[0] == kind]


def compressed(names: Iterable[str]) -> str:
    """Return the name of the last stage that compresses.

    Example:
        >>> compressed(["data", "compress", "compress_2", "export"])
        'compress_2'
    """
    return of_kind("compress", names)[-1]
