"""Which calls of rocksdict let other threads of Python run meanwhile.

Another thread counts its turns. It gives the interpreter lock back each time, and nobody else is ever told to: with
a switch interval of hours, it has a turn during a call only if the call itself lets go of the lock.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from stress import raw
from stress.bench.record import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("gil",)
_HOURS = 10_000.0
_ROWS = 100_000
_KEYS = 100


class Turns:
    """A thread that counts how often it has had the interpreter lock.

    Attributes:
        count: How often.
    """

    def __init__(self) -> None:
        self.count = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended:
            self.count += 1
            time.sleep(0)  # lets go of the lock, and asks for it again

    def __enter__(self) -> Turns:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_HOURS)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self._thread.join()
        sys.setswitchinterval(self._interval)


def measure(directory: str) -> Iterator[Call]:
    """Try the calls, on a database of their own."""
    with Turns() as turns, raw.open_plain(f"{directory}/lock") as database:
        _fill(database)
        database.flush()
        _fill(database)  # once more: of files that overlap a compaction is work, and not a change of names
        for name, (repeats, action) in _calls(database, directory).items():
            yield _tried(turns, name, action, repeats)


def _fill(database: Any) -> None:
    for number in range(_ROWS):
        database[b"%08d" % number] = b"v" * 100


def _tried(turns: Turns, name: str, action: Callable[[], object], repeats: int) -> Call:
    before = turns.count
    for _ in range(repeats):
        action()
    had = turns.count - before
    return Call(name, had > 0, had, repeats)


def _calls(database: Any, directory: str) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return the calls by name, each with how often it is tried; what changes the files comes last."""
    keys = [b"%08d" % number for number in range(_KEYS)]
    cursor = database.iter()
    cursor.seek_to_first()
    scan = database.items()
    snapshot = database.snapshot()
    often = 2000
    return {
        "get": (often, lambda: database.get(keys[0])),
        "get of a list": (200, lambda: database.get(keys)),
        "in": (often, lambda: keys[0] in database),
        "put": (often, lambda: database.put(keys[0], b"v")),
        "delete": (often, lambda: database.delete(b"none")),
        "write of a batch": (200, lambda: database.write(_batch(keys))),
        "iter": (often, database.iter),
        "seek": (often, lambda: cursor.seek(keys[1])),
        "next of a cursor": (often, cursor.next),
        "next of a scan": (often, lambda: next(scan)),
        "snapshot": (often, database.snapshot),
        "get of a snapshot": (often, lambda: snapshot[keys[0]]),
        "flush_wal": (20, lambda: database.flush_wal(True)),
        "flush": (1, database.flush),
        "checkpoint": (1, lambda: raw.Checkpoint(database).create_checkpoint(f"{directory}/checkpoint")),
        "compact_range": (1, lambda: database.compact_range(None, None)),
    }


def _batch(keys: list[bytes]) -> Any:
    batch = raw.WriteBatch(raw_mode=True)
    for key in keys:
        batch[key] = b"v"
    return batch
