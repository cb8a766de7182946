"""A process that a round forks for a part of its work: what it returns comes back, how it dies is told."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from stress.faults.orphans import die_with_parent
from stress.faults.process import CrashedError

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")
_READ_BYTES = 1 << 16


class ChildError(Exception):
    """An exception has left the work of a child; the text says which."""


class Child(Generic[ResultT]):
    """A forked child.

    Args:
        name: What it is, in reports.
        work: What it does; what it returns is pickled.
    """

    def __init__(self, name: str, work: Callable[[], ResultT]) -> None:
        self.name = name
        self._channel, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _work(work, theirs)
        os.close(theirs)

    def has_ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def result(self) -> ResultT:
        """Wait for what it returns.

        Raises:
            ChildError: If an exception has left its work.
            CrashedError: If it died.
        """
        said = self._read()
        status = self._reap()
        if status or not said:
            raise CrashedError(f"{self.name} {_how_it_ended(status)}")
        error, result = pickle.loads(said)  # noqa: S301 - from our own child
        if error is not None:
            raise ChildError(f"{self.name}: {error}")
        found: ResultT = result
        return found

    def kill(self) -> None:
        """Kill it and wait until it has died.

        Raises:
            ChildError: If an exception had left its work before.
            CrashedError: If it had died before.
        """
        os.kill(self.pid, signal.SIGKILL)
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        if found is not None and found.si_status == signal.SIGKILL:
            os.close(self._channel)
            os.waitpid(self.pid, 0)
            return
        self.result()

    def _read(self) -> bytes:
        said = b""
        while part := os.read(self._channel, _READ_BYTES):
            said += part
        os.close(self._channel)
        return said

    def _reap(self) -> int:
        _pid, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def _how_it_ended(status: int) -> str:
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status} and no result"


def _work(work: Callable[[], object], channel: int) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        try:
            said = pickle.dumps((None, work()))
        except BaseException as error:  # noqa: BLE001 - told to the round
            traceback.print_exc()
            said = pickle.dumps((f"{type(error).__name__}: {error}", None))
        while said:
            said = said[os.write(channel, said) :]
        status = 0
    finally:  # nothing of the round's is to be finished here
        os._exit(status)


def forked(name: str, work: Callable[[], Any]) -> Any:
    """Do something in a child, and return what it returns; raises as `Child.result` does."""
    return Child(name, work).result()
