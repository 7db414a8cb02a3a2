"""Find out whether this processor's int8 products can overflow."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")


def saturates(facts: Path = CPU_FACTS) -> bool:
    """Tell whether two products of int8 are added in 16 bits, where weights of 8 bits overflow.

    That is so on x86 processors that have neither VNNI nor AMX. A processor that says nothing of itself counts as one
    of them: a bit of the weights is lost then, never an answer.

    Args:
        facts: the file in which Linux describes the processor.

    Example:
        >>> saturates(Path("no such file")) == (platform.machine().lower() in X86)
        True
    """
    if platform.machine().lower() not in X86:
        return False
    if not facts.is_file():
        return True
    flags = facts.read_text(encoding="utf-8", errors="replace")
    return "vnni" not in flags and "amx_int8" not in flags


X86 = ("x86_64", "amd64", "i686", "i386")
