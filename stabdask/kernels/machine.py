"""What this machine is, in words."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

__all__ = ["cpu_count", "machine_text", "processor_name"]


def cpu_count() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return the name that the processor gives itself, or its architecture where it gives none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def machine_text() -> str:
    """Return processor, cores that this process may use, and memory, without anything that names the machine."""
    import psutil

    cores = cpu_count()
    return (
        f"{processor_name()}, {cores} core{'s' * (cores != 1)}, {psutil.virtual_memory().total / 1e9:.0f} GB"
    )
