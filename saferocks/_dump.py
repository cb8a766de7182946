"""What is open, as text, on request or on a signal: in the manner of Go's custom profiles.

The total comes first, then how many of what, the age of the oldest, and where they were opened.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _registry
from saferocks._groups import LABEL_WIDTH, groups
from saferocks._text import clipped, printable, printable_path
from saferocks.errors import in_words

if TYPE_CHECKING:
    from types import FrameType

    from typing_extensions import Self

    from saferocks._directory import StrPath
    from saferocks._groups import Group

_STDERR = 2
#: Raised by the very instruction that a handler in Python returns to: it would be raised again, for ever.
_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
#: What the system does at once, and asks no process.
_ORDERS = ("SIGKILL", "SIGSTOP")
#: What to give: Windows has no signal for programs to use as they like, but one for Ctrl+Break.
_SUCH = "signal.SIGUSR1" if hasattr(signal, "SIGUSR1") else "signal.SIGBREAK"
#: Milliseconds for which a reader of a pipe or terminal that does not block may have no room for more.
_PATIENCE = 1000


def dump() -> str:
    """Return all open handles of the process as text, grouped by the line that opened them.

    The total comes first, then for each line how many of what it has opened, up to three of their
    labels, long ones without their middle, and the age of the oldest. With `trace="stack"` each
    has its whole stack. Takes no lock and calls nothing of RocksDB, so it can be called anywhere.

    Returns:
        Lines of printable characters, the last one ended too.

    Example:
        >>> import saferocks
        >>> print(saferocks.dump())
        saferocks: 0 open handles
        <BLANKLINE>
    """
    found = groups(_registry.snapshot())
    total = sum(group.count for group in found)
    head = f"saferocks: {total} open handle{'' if total == 1 else 's'}\n"
    return head + "".join(f"\n{_as_text(group)}" for group in found)


def _as_text(group: Group) -> str:
    labels = "".join(f" [{printable(clipped(label, LABEL_WIDTH))}]" for label in group.labels)
    database = "" if group.database is None else f", {printable_path(group.database)}"
    stack = "".join(f"    {printable_path(line)}\n" for line in group.stack)
    return f"{group.count} {group.kind}{labels}, oldest {in_words(group.oldest)}{database}\n{stack}"


def dump_on_signal(number: int, file: StrPath | None = None) -> SignalDump:
    """Write `dump()`, process and time whenever this process gets a signal; in the main thread only.

    What handled the signal before is called afterwards, as ever; what the system itself does with the
    signal, such as to end the process on SIGTERM, is not done. The text goes straight to the file
    descriptor: a signal may arrive in the midst of a `print`, or while any lock is held. Python
    runs handlers in the main thread, between two steps of its own; one that arrives during a long
    call of RocksDB there is answered when that call is over. One that arrives while a dump is being
    written is answered by that one.

    Args:
        number: The signal, such as `signal.SIGUSR1`; on Windows `signal.SIGBREAK`, which is Ctrl+Break.
        file: Where to append the text; stderr if left out, and nowhere in a process started without one.

    Returns:
        What undoes it, by `stop()` or at the end of a `with` block.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If this is not the main thread, there is no such signal to handle, or the file is a named pipe.
        OSError: If the file cannot be written.

    Example:
        >>> import saferocks, signal
        >>> with saferocks.dump_on_signal(signal.SIGUSR1):
        ...     pass  # `kill -USR1` tells what is open
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"number is {number!r}; give a signal, such as {_SUCH}")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals are handled in the main thread only; call dump_on_signal() there")
    _check_signal(number)
    path = None if file is None else os.path.abspath(_directory.text_path(file))
    if path is not None:
        _check(path)
    return SignalDump(number, path)


def _check_signal(number: int) -> None:
    if number not in signal.valid_signals():
        raise ValueError(f"there is no signal {number} here; give one such as {_SUCH}")
    if any(number == getattr(signal, name, None) for name in _FAULTS):
        raise ValueError(f"signal {number} tells of a crash, which Python cannot handle; use faulthandler for that")
    if any(number == getattr(signal, name, None) for name in _ORDERS):
        raise ValueError(f"signal {number} cannot be handled by any process; give one such as {_SUCH}")


def _check(path: str) -> None:
    """Open the file once, where the caller learns of it if that fails."""
    if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        raise ValueError(f"file {path!r} is a named pipe, which may have no reader; give a plain file")
    os.close(_open(path))


class SignalDump:
    """Writes what is open when a signal comes, until it is stopped; made by `dump_on_signal`.

    Attributes:
        number: The signal.
        file: Where the text is appended; None for stderr.
    """

    def __init__(self, number: int, file: str | None) -> None:
        self.number = number
        self.file = file
        self._active = True
        #: A signal may come while this one is being answered, again and again: nested to any depth, they
        #: would use up the stack and the file descriptors. Main thread only, as all handlers are.
        self._writing = False
        self._before: Any = signal.getsignal(number)
        signal.signal(number, self._handle)

    def stop(self) -> None:
        """Write no more, and put back the handler that was there before; twice is no error.

        Where another one has been put in place since, which may call this one, that stays, and this
        one goes on calling the one before it.
        """
        if self._active and signal.getsignal(self.number) == self._handle:
            # A handler that Python has not installed is unknown to it, and cannot be put back.
            signal.signal(self.number, signal.SIG_DFL if self._before is None else self._before)
        self._active = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._active and not self._writing:
            try:
                self._writing = True
                self._write()
            finally:
                self._writing = False
        if callable(self._before):
            self._before(number, frame)

    def _write(self) -> None:
        """Write the dump; a failure is told on stderr and never raised into whatever was interrupted."""
        try:
            text = _dump_of_this_moment().encode("utf-8", "backslashreplace")
            if self.file is None:
                _write_to_stderr(text)
                return
            target = _open(self.file)
            try:
                _write_all(target, text)
            finally:
                os.close(target)
        except Exception as error:  # noqa: BLE001 - told, where that is possible
            _complain(error)


def _dump_of_this_moment() -> str:
    """Return the dump with the process and the time: those of several may come to one file, and to one stderr."""
    head, end, listed = dump().partition("\n")
    return f"{head} in process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}{end}{listed}"


def _open(path: str) -> int:
    """Open a file to append to; anew each time, as it may have been rotated away."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _write_all(target: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:  # others have made the pipe or terminal that we share so
            if not _has_room(target):
                raise


def _has_room(target: int) -> bool:
    if not hasattr(select, "poll"):  # on Windows, where no pipe that Python writes to is so
        return False
    waiting = select.poll()
    waiting.register(target, select.POLLOUT)
    return bool(waiting.poll(_PATIENCE))


def _write_to_stderr(text: bytes) -> None:
    """Write to stderr, if the process was started with one.

    Without one, its number is that of the first file that was opened since, which may be of a database.
    """
    if sys.__stderr__ is not None:
        _write_all(_STDERR, text)


def _complain(error: Exception) -> None:
    try:
        _write_to_stderr(f"saferocks: the dump could not be written: {printable(str(error))}\n".encode())
    except OSError:  # there is no stderr, and nobody to tell
        return
