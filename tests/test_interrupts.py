"""Ctrl-C, or an alarm, at each moment at which Python runs a signal handler: it arrives, and all is released.

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
@pytest.mark.parametrize("work", ["reads", "cursors", "shared", "writes", "families", "scans", "follows"])
@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "TimeoutError"])
def test_an_interrupt_at_each_moment(run_python: Run, kind: str, work: str, stride: int) -> None:
    """It arrives; the database is closed, no native object is left, and it opens again with its rows."""
    times = 1 if kind == "KeyboardInterrupt" or stride == 1 else 3
    look_at(run_python, work, times * (8 * stride if work == "follows" else stride), kind)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 3], ids=["every", "third"])
@pytest.mark.parametrize("work", ["cursors_go_on", "scans_go_on"])
@pytest.mark.parametrize("kind", ["KeyboardInterrupt", pytest.param("TimeoutError", marks=pytest.mark.slow)])
def test_what_was_interrupted_can_be_used_again(run_python: Run, kind: str, work: str, stride: int) -> None:
    """A handle whose user goes on shows the right rows, or says that it was interrupted; it waits for nobody."""
    look_at(run_python, work, stride, kind)


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        ("KeyboardInterrupt", "nothing"),
        ("TimeoutError", "nothing"),
        ("TimeoutError", "fails"),
        pytest.param("KeyboardInterrupt", "fails", marks=pytest.mark.slow),
        pytest.param("RuntimeError", "nothing", marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_at_each_moment_of_a_close(run_python: Run, kind: str, work: str) -> None:
    """Ctrl-C, and what any signal handler raises, arrives and finds the database closed, though the body has failed."""
    look_at(run_python, work, 1, kind)


def look_at(run_python: Run, work: str, stride: int, kind: str) -> None:
    """Have the moments of a work interrupted, and see that nothing was wrong."""
    done = run_python(PROGRAM, work, str(stride), kind, timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    *wrong, places = done.stdout.splitlines()
    assert wrong == []
    assert int(places) > 10
