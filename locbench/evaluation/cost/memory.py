"""Memory of a device: how much it has, and the peak of a stretch of work.

On a CPU that peak is the resident set, on a GPU the allocated bytes.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def memory_of(device: torch.device) -> int | None:
    """Bytes that a GPU has, or the machine of a CPU; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


class PeakMemory:
    """Measures from its making; `read()` gives {"peak_resident_bytes"} or {"peak_allocated_bytes"}.

    The resident set is the whole process: interpreter and libraries too. Linux lets its high-water
    mark be reset; elsewhere the mark is that of the whole life of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif CLEAR_REFS.exists():
            try:
                CLEAR_REFS.write_text("5")
            except OSError:  # a container may forbid it; then the mark is simply older
                return

    def read(self) -> dict[str, int]:
        """The peak since the start, in bytes."""
        if self.device.type == "cuda":
            return {"peak_allocated_bytes": torch.cuda.max_memory_allocated(self.device)}
        if STATUS.exists():
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return {"peak_resident_bytes": 1024 * int(line.split()[1])}
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_resident_bytes": usage if sys.platform == "darwin" else 1024 * usage}
