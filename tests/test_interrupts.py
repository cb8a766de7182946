"""Ctrl-C at each moment at which Python delivers one: it arrives, and all is released.

The program is `interrupts.py` beside this file; it runs in child processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = Path(__file__).with_name("interrupts.py").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="there signal handlers run between any two instructions"
)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 5], ids=["every", "fifth"])
@pytest.mark.parametrize("work", ["nothing", "reads", "cursors", "shared", "writes", "families", "scans", "follows"])
def test_an_interrupt_at_each_moment(run_python: Run, work: str, stride: int) -> None:
    """It arrives; the database is closed or can be, no native object is left, and it opens again with its rows."""
    stride = {"nothing": 1, "follows": 8 * stride}.get(work, stride)
    done = run_python(PROGRAM, work, str(stride), timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    *wrong, places = done.stdout.splitlines()
    assert wrong == []
    assert int(places) > 20
