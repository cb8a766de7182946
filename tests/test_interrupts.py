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

#: Ctrl-C; an alarm; and what a handler may raise that reads a file.
KINDS = ("KeyboardInterrupt", "TimeoutError", "FileNotFoundError")

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="there signal handlers run between any two instructions"
)


@pytest.mark.parametrize(
    "work", ["reads", "cursors", "shared", "writes", "families", "scans", "follows", "opens", "makes"]
)
@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        *(pytest.param(kind, 1, id=f"{kind}-every", marks=pytest.mark.slow) for kind in KINDS[:2]),
        *(pytest.param(kind, 5, id=f"{kind}-fifth") for kind in KINDS),
    ],
)
def test_an_interrupt_at_each_moment(run_python: Run, kind: str, work: str, stride: int) -> None:
    """It arrives; the database is closed, no native object is left, and it opens again with its rows."""
    times = 1 if kind == "KeyboardInterrupt" or stride == 1 else 3
    look_at(run_python, work, times * stride * {"follows": 8, "opens": 2}.get(work, 1), kind)


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
        ("FileNotFoundError", "nothing"),
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


def test_an_alarm_as_a_file_is_looked_for(run_python: Run) -> None:
    """An alarm that comes as an opening asks for a file arrives, and is not taken for a file that is not there."""
    done = run_python(
        """
        import sys
        import saferocks

        def alarm(frame, event, function):
            global left
            if event == "c_return" and function.__name__ in ("stat", "lstat"):
                left -= 1
                if left == 0:
                    sys.setprofile(None)
                    raise TimeoutError

        with saferocks.open("db"):
            pass
        for moment in range(1, 100):
            left = moment
            try:
                sys.setprofile(alarm)
                with saferocks.open("db"):
                    sys.setprofile(None)
            except TimeoutError:
                continue
            if left > 0:
                break
            print(moment, "was lost")
        print(moment)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lost, moments = done.stdout.splitlines()
    assert lost == []
    assert int(moments) > 5


def test_an_alarm_as_options_are_asked_for_their_mode(run_python: Run) -> None:
    """An alarm arrives, and is not taken for what options of the typed mode answer."""
    done = run_python(
        """
        import sys
        from saferocks import _engine

        def alarm(frame, event, argument):
            if event == "line" and frame.f_lineno == frame.f_code.co_firstlineno + 3:
                sys.settrace(None)
                raise TimeoutError
            return alarm if frame.f_code is _engine.is_raw.__code__ else None

        options = _engine.new_options(True)
        sys.settrace(alarm)
        try:
            print(_engine.is_raw(options))
        except TimeoutError:
            print("arrived", _engine.is_raw(options), _engine.is_raw(_engine.new_options(False)))
        """
    )
    assert (done.stdout, done.stderr) == ("arrived True False\n", "")
