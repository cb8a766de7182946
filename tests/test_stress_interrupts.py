"""Ctrl-C, a polite kill and the death of a leg, on real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from stress.interrupts import noticed
from stress.runfile import load_run

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0
FLAGS = ("--seed", "1", "--jobs", "2", "--leg", "raw", "--leg", "guarded", "--leg", "scoped")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something outside of this process."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


def start(output: Path, seconds: float, *, ignoring: bool = False) -> subprocess.Popen[str]:
    """Start a run in the background; `ignoring` Ctrl-C, as a shell has it that starts a job with `&`."""
    output.mkdir()
    prefix = ("sh", "-c", 'trap "" INT; exec "$@"', "sh") if ignoring else ()
    command = (sys.executable, "-m", "stress", "run", "iterator-leak", "--seconds", str(seconds), *FLAGS)
    return subprocess.Popen(
        (*prefix, *command, "--json", "--output", str(output / "results")),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(output)},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def is_leg(process: psutil.Process) -> bool:
    try:
        return "stress.leg" in process.cmdline()
    except psutil.NoSuchProcess:  # it ended between being listed and being looked at
        return False


def legs(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(run.pid).children() if is_leg(child)]


def sampled(output: Path) -> list[Path]:
    return [file for file in output.glob("results/*/*.jsonl") if file.stat().st_size]


def ended(run: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = run.communicate(timeout=LIMIT)
    finally:
        run.kill()
    return run.returncode, out, err


def recorded(output: Path) -> dict:
    return load_run(next(output.glob("results/*/run.json")))


@pytest.mark.parametrize(
    ("signals", "ignoring"),
    [
        ((signal.SIGINT,), False),
        ((signal.SIGTERM,), False),
        ((signal.SIGHUP,), False),
        ((signal.SIGINT, signal.SIGINT, signal.SIGINT), False),
        ((signal.SIGINT,), True),
    ],
    ids=["ctrl-c", "kill", "hang-up", "ctrl-c-thrice", "ctrl-c-in-the-background"],
)
def test_an_interrupt_ends_the_legs_and_keeps_what_was_done(tmp_path: Path, signals, ignoring: bool) -> None:
    """The run exits with 3, its record is whole, and neither a process nor a database stays behind."""
    output = tmp_path / "run"
    run = start(output, 60.0, ignoring=ignoring)
    until(lambda: len(sampled(output)) == 2, "samples of two legs")
    running = legs(run)
    assert len(running) == 2
    for number in signals:
        run.send_signal(number)
    status, out, err = ended(run)
    assert status == 3, err
    assert "interrupted" in err
    found = recorded(output)
    assert (found["status"], found["interrupted"]) == ("inconclusive", True)
    assert found["reason"] == "interrupted after 2 of 3 legs"
    assert [(leg["leg"], leg["reason"]) for leg in found["results"]] == [
        ("raw", "interrupted"),
        ("guarded", "interrupted"),
    ]
    assert all(leg["series"]["heap"] for leg in found["results"])
    assert json.loads(out)["status"] == "inconclusive"
    assert not any(process.is_running() for process in running)
    assert [file.name for file in output.iterdir()] == ["results"]


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal-closed", "nohup"])
def test_a_hang_up_is_noticed_unless_it_is_ignored(ignored: bool) -> None:
    """A run that `nohup` has started goes on when its terminal is closed; afterwards all is as it was."""
    own = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with noticed() as flag:
            if ignored or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
                signal.raise_signal(signal.SIGHUP)
            assert flag.is_set() is not ignored
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, own)


@pytest.mark.parametrize("seconds", [60.0, 2.0], ids=["ctrl-c", "a-leg-ends"])
@pytest.mark.parametrize("gone", [False, True], ids=["unwritable", "directory-gone"])
def test_a_record_that_cannot_be_saved_ends_the_run(tmp_path: Path, seconds: float, gone: bool) -> None:
    """Ctrl-C still ends the legs, and so does the end of a leg: one line says why, and nothing can be concluded."""
    output = tmp_path / "run"
    run = start(output, seconds)
    until(lambda: len(sampled(output)) == 2, "samples of two legs")
    running = legs(run)
    (directory,) = output.glob("results/*")
    if gone:
        shutil.rmtree(directory)
    else:
        (directory / "run.json.new").mkdir()
    if seconds == 60.0:
        run.send_signal(signal.SIGINT)
    status, out, err = ended(run)
    assert (status, "Traceback" in err) == (3, False), err
    assert "cannot keep the record of the run, so it was ended: " in err
    assert json.loads(out)["status"] == "inconclusive"
    assert not any(process.is_running() for process in running)
    assert [file.name for file in output.iterdir()] == ["results"]


def test_a_leg_that_is_killed_is_an_error_and_the_rest_is_kept(tmp_path: Path) -> None:
    """A leg that the system kills is red and never a pass; the other legs come to their end."""
    output = tmp_path / "run"
    run = start(output, 2.0)
    until(lambda: len(sampled(output)) == 2, "samples of two legs")
    (raw,) = (leg for leg in legs(run) if "raw" in leg.cmdline())
    raw.kill()
    status, _out, err = ended(run)
    assert status == 1, err
    found = {leg["leg"]: leg for leg in recorded(output)["results"]}
    assert list(found) == ["raw", "guarded", "scoped"]
    assert (found["raw"]["status"], found["raw"]["verdict"]) == ("red", "inconclusive")
    assert "status -9" in found["raw"]["reason"]
    assert [found[leg]["status"] for leg in ("guarded", "scoped")] == ["green", "green"]
    assert [file.name for file in output.iterdir()] == ["results"]


def test_several_legs_run_at_once_and_come_out_in_order(tmp_path: Path) -> None:
    """With --jobs 2 two legs run at a time, and the record has them in the order of the plan."""
    output = tmp_path / "run"
    run = start(output, 1.0)
    most = 0
    while run.poll() is None and len(sampled(output)) < 3:
        most = max(most, len(legs(run)))
        time.sleep(0.02)
    ended(run)
    assert most == 2
    found = recorded(output)
    assert [leg["leg"] for leg in found["results"]] == ["raw", "guarded", "scoped"]
    assert found["command"].endswith("--seed 1 --jobs 2")
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory"] > 1 << 20
    assert {"cpu", "platform", "allocator"} < set(found["machine"])
