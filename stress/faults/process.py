"""A round in a process of its own: forked, carried out, ended with all that it has started.

The process that forks never opens a database, or its children could open none, and has one thread.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from stress.faults.fault import NotStagedError, Round
from stress.faults.orphans import adopt_descendants, die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

    from stress.faults.fault import Fault

#: How long the processes of a round that hangs may take to write their stacks.
_ABORT_SECONDS = 2.0
_READ_BYTES = 1 << 16
#: The name of a socket has 107 bytes at most; multiprocessing's go into `pymp-` directories, as `listener-`.
_LONGEST_TEMPORARY = 107 - len("/pymp-12345678/listener-12345678")
#: What the process that forks handles by itself, and a round does not.
_HANDLED = (signal.SIGTERM, signal.SIGHUP)


class Verdict(Enum):
    """What a round comes out as."""

    RIGHT = "right"
    WRONG = "wrong"
    HANG = "hang"
    CRASH = "crash"
    NOT_RUN = "not run"


class CrashedError(Exception):
    """A process that a round has started died of a signal, or without a word, where it should not have."""


@dataclass(frozen=True)
class Finding:
    """What came out of a round.

    Attributes:
        fault: The name of the fault.
        seed: The seed of the round.
        verdict: What it comes out as.
        seconds: How long it took.
        counts: What was done and seen.
        wrong: What must never be, or why it was not run, a sentence each.
        at_all: Whether this machine cannot stage the fault, whatever the seed.
        kept: Where the files of the round are, if they were kept.
    """

    fault: str
    seed: int
    verdict: Verdict
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    at_all: bool = False
    kept: str | None = None

    @property
    def replay(self) -> str:
        """The command that repeats it."""
        return f"python -m stress faults --only {self.fault} --seed {self.seed} --rounds 1"


class RoundProcess:
    """The process of a round, as the one that forked it sees it.

    Args:
        fault: What is to happen.
        seed: The seed of the round.
        directory: A directory of the round's own, empty; what it prints goes to `output.txt` in it.

    Attributes:
        hung: Whether it had to be ended because its time was over.
    """

    def __init__(self, fault: Fault, seed: int, directory: Path) -> None:
        self.fault = fault
        self.seed = seed
        self.directory = directory
        self.output = directory / "output.txt"
        self.started = time.monotonic()
        self.seconds = 0.0
        self.hung = False
        self._aborted = False
        self._said = b""
        self.pid, self._channel = _fork(fault, seed, directory, self.output)
        self._deadline = self.started + fault.limit
        #: Becomes readable when the process has ended, reaped or not.
        self.ended_fd = os.pidfd_open(self.pid)

    @property
    def channel(self) -> int:
        """Where the result comes from."""
        return self._channel

    def read(self) -> bool:
        """Take in what has come of the result; tell whether more may come."""
        try:
            part = os.read(self._channel, _READ_BYTES)
        except BlockingIOError:
            return False
        self._said += part
        return bool(part)

    def check_time(self) -> float:
        """End the process if its time is over, its stacks being written first; return the seconds left."""
        left = self._deadline - time.monotonic()
        if left > 0:
            return left
        if self._has_ended():  # while we were busy with another
            return 0.0
        self._take_measures()
        self._deadline = time.monotonic() + _ABORT_SECONDS
        return _ABORT_SECONDS

    def _take_measures(self) -> None:
        """Abort what the process has started, so that the stacks are written; next time itself; next time kill all."""
        below = [] if self.hung else psutil.Process(self.pid).children(recursive=True)
        for each in below:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGABRT)
        if not below:  # itself after the others: some of them die with it
            os.killpg(self.pid, signal.SIGKILL if self._aborted else signal.SIGABRT)
            self._aborted = True
        self.hung = True

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        """Kill it with its group, and wait until it has died; its number stays its own until it is reaped."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    @property
    def has_said(self) -> bool:
        """Whether it has come to a result."""
        return self._result() is not None

    def end(self) -> int:
        """Kill whatever is left in its group, reap it, and return its status, negative for a signal."""
        self.seconds = time.monotonic() - self.started
        os.killpg(self.pid, signal.SIGKILL)
        _pid, status = os.waitpid(self.pid, 0)
        while self.read():
            pass
        os.close(self._channel)
        os.close(self.ended_fd)
        return os.waitstatus_to_exitcode(status)

    def finding(self, status: int, left_behind: tuple[str, ...]) -> Finding:
        """Return what came out of it.

        Args:
            status: How it ended.
            left_behind: The processes that outlived it.
        """
        result = self._result()
        if self.hung:
            said = f"it hung, and was ended after {self.fault.limit:g} s; its stacks are in {self.output.name}"
            return self._found(Verdict.HANG, (said,))
        if result is None or status:
            return self._found(Verdict.CRASH, (f"its process {_how_it_ended(status)}",))
        found = self._found(Verdict(result["verdict"]), tuple(result["wrong"]), result["counts"], result["at_all"])
        if left_behind and found.verdict is not Verdict.CRASH:
            survivors = tuple(f"it left a process behind: {each}" for each in left_behind)
            return self._found(Verdict.WRONG, found.wrong + survivors, found.counts)
        return found

    def _found(
        self, verdict: Verdict, wrong: tuple[str, ...], counts: dict[str, int] | None = None, at_all: bool = False
    ) -> Finding:
        return Finding(self.fault.name, self.seed, verdict, self.seconds, counts or {}, wrong, at_all)

    def _result(self) -> dict[str, Any] | None:
        try:
            result: dict[str, Any] = json.loads(self._said)
        except ValueError:  # nothing, or a part
            return None
        return result


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"died of {signal.Signals(-status).name}"
    return f"ended with status {status}" if status else "ended without a result"


def _fork(fault: Fault, seed: int, directory: Path, output: Path) -> tuple[int, int]:
    """Fork the process of a round; return its number and where its result comes from."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_HANDLED})  # ours, until they are the round's own
    try:
        pid = os.fork()
        if pid == 0:
            _in_child(fault, seed, directory, output, theirs, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(theirs)
    return pid, ours


def _in_child(fault: Fault, seed: int, directory: Path, output: Path, channel: int, mask: Any) -> NoReturn:
    status = 1
    try:
        _prepare(output, mask)
        files = directory / "files"
        files.mkdir()
        _keep_temporary_files_in(directory)
        own = os.getpid()
        said = json.dumps(_carry_out(fault, Round(seed, files))).encode()
        while said and os.getpid() == own:  # not where a child of the round let an exception go, which is written
            said = said[os.write(channel, said) :]
        status = int(os.getpid() != own)
    finally:  # nothing of the process that forked us is to be finished here: no `finally` of its, no atexit function
        os._exit(status)


def _prepare(output: Path, mask: Any) -> None:
    """Make the process one of its own: its session, signals, output; its stacks are written if it is aborted."""
    os.setsid()
    adopt_descendants()
    die_with_parent()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for given, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(given, standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file=2, all_threads=True)  # on SIGABRT, too; a thread that waits would be one at a fork
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _keep_temporary_files_in(directory: Path) -> None:
    """Have what modules put into the directory for temporary files removed with the round, whose `atexit` never comes.

    Sockets have short names only: where that would be too long for multiprocessing's, things stay where they are.
    """
    if len(os.fsencode(directory)) <= _LONGEST_TEMPORARY:
        os.environ["TMPDIR"] = tempfile.tempdir = str(directory)


def _carry_out(fault: Fault, staged: Round) -> dict[str, Any]:
    """Carry out a round, and return its result as it is sent."""
    at_all = True
    try:
        fault.check()
        at_all = False
        outcome = fault.stage(staged)
    except NotStagedError as error:
        return _result(Verdict.NOT_RUN, [str(error)], at_all=at_all)
    except CrashedError as error:
        return _result(Verdict.CRASH, [str(error)])
    except BaseException as error:  # noqa: BLE001 - whatever leaves it is wrong
        traceback.print_exc()  # to the file of its output
        return _result(Verdict.WRONG, [f"{type(error).__name__}: {error}"])
    wrong = list(outcome.wrong)
    return _result(Verdict.WRONG if wrong else Verdict.RIGHT, wrong, dict(outcome.counts))


def _result(
    verdict: Verdict, wrong: list[str], counts: dict[str, int] | None = None, *, at_all: bool = False
) -> dict[str, Any]:
    return {"verdict": verdict.value, "wrong": wrong, "counts": counts or {}, "at_all": at_all}
