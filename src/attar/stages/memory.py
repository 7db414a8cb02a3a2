"""Read the memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_rss() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    Linux's ``VmHWM`` is read where it is: ``ru_maxrss`` of a started process begins with the memory of the process
    that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # counts KiB on Linux
