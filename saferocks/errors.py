"""Every exception and warning of saferocks.

`DatabaseClosedError` lives in the engine, because it is also rocksdict's `DbClosedError`;
everything else is here and needs nothing but Python.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AbortedError",
    "BusyError",
    "ColumnFamilyDroppedError",
    "ColumnFamilyNotFoundError",
    "ConcurrentUseError",
    "CorruptionError",
    "EngineError",
    "ForkedHandleError",
    "ForkedProcessError",
    "HandleClosedError",
    "HandleError",
    "HandleExpiredError",
    "IOFailedError",
    "IncompleteError",
    "InvalidArgumentError",
    "Leak",
    "LeakedHandleWarning",
    "LeakedHandlesError",
    "LockedError",
    "ModeMismatchError",
    "NoSpaceError",
    "NotEnteredError",
    "NotSupportedError",
    "OverdueHandleWarning",
    "PortForbiddenError",
    "PortInUseError",
    "ReadOnlyError",
    "SaferocksError",
    "ShutdownError",
    "TimedOutError",
    "TryAgainError",
    "UnscopedHandleWarning",
]


class SaferocksError(Exception):
    """The base of every error that saferocks raises, bad arguments and missing keys excepted."""


class HandleError(SaferocksError):
    """A handle was used in a way that its life does not allow."""


class NotEnteredError(HandleError):
    """A handle was used without `with`, under the policy `raise`."""


class ConcurrentUseError(HandleError):
    """Two threads used one iterator, or one call interrupted another on the same native object."""


class HandleClosedError(HandleError):
    """A handle was used after its release; the text says why it was released."""


class HandleExpiredError(HandleClosedError):
    """A handle was used after its lease had run out."""


class ForkedHandleError(HandleClosedError):
    """A handle that was opened before `fork` was used in the child process."""


class ForkedProcessError(SaferocksError):
    """A database was opened where it could not work after a fork.

    That is in a child process whose parent had opened one before the fork, or in a process that uWSGI is about to
    fork without telling Python, so that its workers could not know what is not theirs.
    """


class PortForbiddenError(SaferocksError):
    """The debug page was to be served on a port that this process may not have."""


class PortInUseError(SaferocksError):
    """The debug page was to be served on a port that another server has."""


@dataclass(frozen=True)
class Leak:
    """Handles of one kind that escaped from one line.

    Attributes:
        kind: What escaped: `iterator`, `snapshot`, `write_batch`, ...
        opened_at: The line of the opener's call, as `file:line`.
        count: How many handles that line has leaked with that label.
        age: Seconds for which the one held longest was open.
        escape: How they escaped, such as `collected while open`.
        database: The path of their database, or None for free-standing handles.
        label: The label given at the opening, if any; `(others)` once leaks of very many labels are told apart already.
        note: What was lost with them, such as the operations of a batch.
        stack: The frames of the opening, innermost first, under `trace="stack"`.
        remedy: The line to write instead.
    """

    kind: str
    opened_at: str
    count: int
    age: float
    escape: str
    database: str | None = None
    label: str | None = None
    note: str | None = None
    stack: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        return self.headline + "".join(f"\n    {line}" for line in self.stack)

    @property
    def headline(self) -> str:
        """The leak in one line, without its stack."""
        several = self.count != 1
        counted = f"{self.count} {self.kind} handles" if several else self.kind
        held = f"after {'up to ' if several else ''}{in_words(self.age)}"
        label = f" [{self.label}]" if self.label else ""
        note = f"; {self.note}" if self.note else ""
        return f"{counted} opened at {self.opened_at}{label} {'were' if several else 'was'} {self.escape} {held}{note}"


def in_words(seconds: float) -> str:
    """Write a duration as people do: `3 ms`, `1.5 s`, `260 s`."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"  # noqa: PLR2004 - a minute


class LeakedHandlesError(SaferocksError):
    """Handles escaped from their `with`, under the policy `raise`.

    Attributes:
        leaks: What escaped, one entry for each opening line.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__(leaks)

    def __str__(self) -> str:
        total = sum(leak.count for leak in self.leaks)
        lines = "".join(f"\n  {leak}" for leak in self.leaks)
        return f"{total} leaked handle{'' if total == 1 else 's'}; open each in a 'with' block:{lines}"


class EngineError(SaferocksError):
    """RocksDB refused or failed; `str()` starts with RocksDB's own text.

    Args:
        text: That text, and what else there is to say.

    Attributes:
        code: RocksDB's status code (`Status::Code`), or None where it gave none.
        subcode: RocksDB's sub-text, such as `No space left on device`, or None.
    """

    def __init__(self, text: str, *, code: int | None = None, subcode: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.subcode = subcode

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, {"code": self.code, "subcode": self.subcode})


class CorruptionError(EngineError):
    """Data on disk does not match its checksum or its format (`Status::Corruption`)."""


class IOFailedError(EngineError):
    """The operating system refused (`Status::IOError`), or a path is not what it should be."""


class LockedError(IOFailedError):
    """Another handle or process holds the database's LOCK."""


class NoSpaceError(IOFailedError):
    """The disk is full."""


class InvalidArgumentError(EngineError):
    """RocksDB was asked for something that makes no sense (`Status::InvalidArgument`)."""


class ModeMismatchError(InvalidArgumentError):
    """Raw bytes and typed keys do not mix: the database, options or batch is of the other mode."""


class IncompleteError(EngineError):
    """RocksDB stopped early (`Status::Incomplete`), for instance at `max_skippable_internal_keys`."""


class NotSupportedError(EngineError):
    """This kind of database cannot do that (`Status::NotSupported`)."""


class ReadOnlyError(NotSupportedError):
    """A write through a read-only or secondary handle; nothing was written."""


class BusyError(EngineError):
    """Calls still under way, or RocksDB busy (`Status::Busy`); nothing was changed, try again."""


class TimedOutError(EngineError):
    """RocksDB gave up waiting (`Status::TimedOut`)."""


class AbortedError(EngineError):
    """RocksDB aborted the operation (`Status::Aborted`)."""


class ShutdownError(EngineError):
    """The database is shutting down (`Status::ShutdownInProgress`)."""


class TryAgainError(EngineError):
    """RocksDB asks for another try (`Status::TryAgain`)."""


class ColumnFamilyDroppedError(EngineError):
    """The column family was dropped (`Status::ColumnFamilyDropped`)."""


class ColumnFamilyNotFoundError(EngineError):
    """The database has no open column family of that name."""


class LeakedHandleWarning(ResourceWarning):
    """A handle was collected while open, outlived its database, or was open at interpreter exit."""


class UnscopedHandleWarning(ResourceWarning):
    """A handle was used without `with`; given once for each line."""


class OverdueHandleWarning(ResourceWarning):
    """A handle has been open for longer than its `warn_after`."""


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to an exception, on Python 3.10 too (where tracebacks do not show it)."""
    add = getattr(error, "add_note", None)
    if add is not None:
        add(note)
    else:
        vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]
