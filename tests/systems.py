"""What tests need of a system that not every one has: marks that skip with the reason, and files that need it to load.

The package itself is tried without all of it in test_portability.py.
"""

from __future__ import annotations

import os
import signal
import sys
from fnmatch import fnmatch
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

HAS_FORK = hasattr(os, "fork")
HAS_SIGNALS = hasattr(signal, "SIGUSR1")
HAS_LIMITS = find_spec("resource") is not None
HAS_PROC = os.path.isdir("/proc/self/fd")
HAS_MODES = hasattr(os, "geteuid")
IS_LINUX = sys.platform == "linux"

NO_FORK = "this system has no fork"
NO_LIMITS = "this system has no limits of resources (`resource`), and no `saferocks` command"

#: How a program is run that forks: from Python 3.12 on that is deprecated with threads, for other reasons than ours.
FORKING = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")

needs_fork = pytest.mark.skipif(not HAS_FORK, reason=NO_FORK)
needs_signals = pytest.mark.skipif(not HAS_SIGNALS, reason="this system has no SIGUSR1, and no signals but a few")
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
needs_limits = pytest.mark.skipif(not HAS_LIMITS, reason=NO_LIMITS)
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="this system has no /proc")
needs_modes = pytest.mark.skipif(not HAS_MODES, reason="this system has no file modes as POSIX has them")
needs_links = pytest.mark.skipif(not HAS_MODES, reason="to make a symbolic link is a privilege on this system")
needs_linux = pytest.mark.skipif(not IS_LINUX, reason="what this takes is on the Linux of continuous integration only")

#: Files that cannot even be loaded without these.
FILES = {
    "test_command*.py": (HAS_LIMITS, NO_LIMITS),
    "test_faults_*.py": (HAS_FORK and HAS_LIMITS, "this system has no fork, in which faults are staged"),
    "test_stress_*.py": (HAS_LIMITS, "the stress harness is for systems with limits of resources (`resource`)"),
}


def lacking(file: str) -> str | None:
    """Return why a file of tests cannot be loaded here, or None if it can."""
    reasons = (reason for pattern, (there, reason) in FILES.items() if fnmatch(file, pattern) and not there)
    return next(reasons, None)


class LackingModule(pytest.Module):
    """A file of tests that is skipped as a whole, and says why."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Skip, instead of loading what cannot be loaded."""
        pytest.skip(lacking(self.path.name) or "", allow_module_level=True)
