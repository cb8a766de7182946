"""What a run was made on, and with: a figure without them says little."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import psutil

import saferocks
from stress.probe import heap_used

_PACKAGES = ("rocksdict", "psutil", "scipy", "rich")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of what a run depends on."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    here = {"python": platform.python_version(), "platform": platform.platform()}
    return {"saferocks": saferocks.__version__, **found, **here}


def machine() -> dict[str, Any]:
    """Return what a machine is: its processor, cores, bytes of memory, system and allocator."""
    return {
        "cpu": _processor(),
        "cores": cores(),
        "memory": psutil.virtual_memory().total,
        "platform": platform.platform(),
        "allocator": _allocator(),
    }


def _processor() -> str:
    """Return the processor's name; where Linux gives none, as on some ARM, its architecture."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lower().startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _allocator() -> str:
    name = " ".join(platform.libc_ver()).strip() or "unknown C library"
    seen = "heap_info reads its heap" if heap_used() else "heap_info reads 0, so the heap cannot be judged"
    preloaded = os.environ.get("LD_PRELOAD")
    return f"{name}; {seen}" + (f"; LD_PRELOAD={preloaded}" if preloaded else "")
