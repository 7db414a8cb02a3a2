"""Say what this machine computes with: processor, instruction sets, cores."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm"),
)
"""What decides how fast int8 and bfloat16 are, by the system's own names; the last two are Arm's."""
CPUINFO = Path("/proc/cpuinfo")


def cpuinfo(path: Path = CPUINFO) -> list[dict[str, str]]:
    """Return what Linux says of each processor; nothing elsewhere."""
    if not path.is_file():
        return []
    blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    lines = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{name.strip(): value.strip() for name, _, value in block} for block in lines]


@cache
def processor() -> str:
    """Return the processor's name, for example ``"AMD EPYC 9B14"``."""
    names = [block["model name"] for block in cpuinfo() if "model name" in block]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets(path: Path = CPUINFO) -> tuple[str, ...]:
    """Return which instruction sets the processor has, of those that matter to small models."""
    said = next((one.get("flags", one.get("Features", "")) for one in cpuinfo(path)), "").split()
    return tuple(name for name in INSTRUCTION_SETS if name in said)


def physical_cores(path: Path = CPUINFO) -> int:
    """Return how many physical cores this process may use; hardware threads of one core count once."""
    allowed = os.sched_getaffinity(0)
    blocks = [one for one in cpuinfo(path) if int(one.get("processor", -1)) in allowed]
    cores = {(one.get("physical id", "0"), one["core id"]) for one in blocks if "core id" in one}
    return len(cores) or len(allowed)


def hardware() -> dict[str, object]:
    """Return the processor's name, its instruction sets and the physical cores at hand, for conditions and reports."""
    return {
        "processor": processor(),
        "instruction_sets": list(instruction_sets()),
        "physical_cores": physical_cores(),
    }
