"""Whether native objects are in use, and closing them once they are not (D5, D6)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from saferocks import _engine, errors

if TYPE_CHECKING:
    from collections.abc import Sequence

# The errors that the questions below are answered with have no traceback afterwards: it refers to the frame, and so to
# what is native; and where a tracer of Python 3.10 has left a copy of the frame's variables, that refers to the error.

#: Seconds between looks at a call in flight.
_PAUSE = 0.0005


def is_busy(rdict: Any, dumps: Any) -> bool:
    """Tell whether a call is inside a native database or column family (D6).

    A setter needs it to itself, and so fails while a call that let go of the interpreter lock is under way.
    What is set is what it has. (To give it what it refuses would do, too, but for Ctrl-C: while rocksdict words
    the refusal, Python's signal handlers run, and what they raise is lost.)

    Args:
        rdict: The native database or column family.
        dumps: What it encodes with.
    """
    if sys.is_finalizing():  # no other thread runs any more, and rocksdict panics instead of raising
        return False
    try:
        rdict.set_dumps(dumps)
    except RuntimeError as error:
        if _engine.is_interrupt(error):
            raise
        error.__traceback__ = None  # see above
        return True
    return False


def is_busy_cursor(cursor: Any) -> bool:
    """Tell whether a call is inside a native cursor, which only decoders written in Python let happen.

    Seeking needs the cursor to itself, and so fails then; otherwise it refuses None as a key.
    """
    if sys.is_finalizing():  # see `is_busy`
        return False
    try:
        cursor.seek(None)
    except Exception as error:
        if _engine.is_interrupt(error):
            raise
        error.__traceback__ = None  # see above
        return isinstance(error, RuntimeError)  # otherwise a KeyError or plain Exception, by the mode of the database
    return False


def is_busy_batch(batch: Any) -> bool:
    """Tell whether a call is inside a native batch, which only encoders written in Python let happen."""
    try:
        batch.len()
    except Exception as error:
        if _engine.is_interrupt(error):
            raise
        error.__traceback__ = None  # see above
        return isinstance(error, RuntimeError)  # otherwise it was written, and is used up
    return False


def close_native(rdict: Any, deadline: float) -> None:
    """Close a native database or column family, waiting for calls that still use it (D6).

    Raises:
        BusyError: If they have not ended by `deadline` (of `time.monotonic`).
        EngineError: If RocksDB reports an error on closing.
    """
    while True:
        try:
            _engine.call(rdict.close)
        except _engine.DatabaseClosedError:
            return
        except errors.ShutdownError:  # background work was cancelled, and so the last flush was too
            return
        except errors.ConcurrentUseError:
            if time.monotonic() >= deadline:
                raise still_running() from None
            time.sleep(_PAUSE)  # the call holds no lock that could be waited on
        else:
            return


def still_running() -> errors.BusyError:
    """Return the error for a close that calls in flight have held up for too long."""
    return errors.BusyError(
        "Resource busy: a call (multi-get, flush, compaction, ...) is still running; the database stays open, "
        "close it again or give a longer close_timeout",
        code=11,
    )


def is_unused(container: Sequence[Any], index: int) -> bool:
    """Tell whether nothing but its container refers to a native object (D5).

    Another thread may have fetched it just before its record was withdrawn; until that call is
    over, the object lives, and with it LOCK.
    """
    # The container and the argument of getrefcount itself: no variable, whose reference some
    # versions of Python count and others borrow.
    return sys.getrefcount(container[index]) <= 2  # noqa: PLR2004 - see above


def is_unused_slot(record: Any) -> bool:
    """Tell whether nothing but its record refers to a native object; see `is_unused`."""
    return sys.getrefcount(record.native) <= 2  # noqa: PLR2004 - the slot, and the argument of getrefcount


def natives_in(native: Any) -> list[Any]:
    """List the single native objects in a record's native part: tuples, and cursors that are shared."""
    if native is None:
        return []
    if isinstance(native, tuple):
        return [leaf for part in native for leaf in natives_in(part)]
    return natives_in(native.native) if hasattr(native, "native") else [native]
