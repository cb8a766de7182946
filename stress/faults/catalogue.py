"""The faults that there are, by name, in the order in which they are staged."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stress.faults.fault import Fault

#: Each name with the module that has its `FAULT`, which is imported when it is asked for.
_MODULES = {
    "crash": "stress.faults.crash",
    "forks": "stress.faults.forks",
    "disk-full": "stress.faults.disk_full",
    "corruption": "stress.faults.corruption",
    "races": "stress.faults.races",
    "hostile": "stress.faults.hostile",
}


def names() -> tuple[str, ...]:
    """Return the names of all faults, in order."""
    return tuple(_MODULES)


def load(name: str) -> Fault:
    """Return the fault of that name."""
    fault: Fault = importlib.import_module(_MODULES[name]).FAULT
    return fault
