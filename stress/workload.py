"""What every leg does to its database, and the settings that make a few seconds tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import saferocks

if TYPE_CHECKING:
    import random

OptionsT = TypeVar("OptionsT", bound=saferocks.Options)

ROWS = 5000
VALUE_BYTES = 500
QUEUE = b"queue/"
_WRITES = 400
_WAITING_JOBS = 20_000
_JOBS = 100
_JOB_BYTES = 20

_MEMTABLE_BYTES = 256 << 10
_CACHE_BYTES = 256 << 10
_OPEN_FILES = 256
#: What a flush or a compaction holds for each of its files; megabytes by default, which would be noise on the heap.
_FILE_BUFFER_BYTES = 64 << 10
_OLD_LOGS = 4


class Writable(Protocol):
    """What rocksdict's database and saferocks' have in common for writing."""

    def __setitem__(self, key: Any, value: Any, /) -> None: ...

    def __delitem__(self, key: Any, /) -> None: ...


def configure(options: OptionsT) -> OptionsT:
    """Make memtables, cache and table cache small.

    Then memtables turn over many times in a short run, so that what pins them shows, and the
    caches are full before the warm-up is over, so that their filling does not look like a leak.
    """
    options.create_if_missing(True)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_max_open_files(_OPEN_FILES)
    options.set_compaction_readahead_size(_FILE_BUFFER_BYTES)
    options.set_writable_file_max_buffer_size(_FILE_BUFFER_BYTES)
    options.set_keep_log_file_num(_OLD_LOGS)  # each opening leaves one, a thousand by default
    tables = saferocks.BlockBasedOptions()
    tables.set_block_cache(saferocks.Cache(_CACHE_BYTES))
    options.set_block_based_table_factory(tables)
    return options


def row_key(number: int) -> bytes:
    """Return the key of a row that is overwritten."""
    return b"row/%08d" % number


def job_key(number: int) -> bytes:
    """Return the key of a job in the queue."""
    return QUEUE + b"%012d" % number


class Workload:
    """Overwrites the same rows at random, and works off a queue: jobs are added and deleted.

    The queue is what long-held snapshots make slow: the marks of deleted jobs cannot be dropped,
    and a look at its head has to pass them all.

    Args:
        db: The database to write to.
        random: The source of everything random.
    """

    def __init__(self, db: Writable, random: random.Random) -> None:
        self._db = db
        self._random = random
        self._head = 0
        self._tail = 0

    def fill(self) -> None:
        """Write every row once, and the waiting jobs."""
        for number in range(ROWS):
            self._db[row_key(number)] = self._random.randbytes(VALUE_BYTES)
        self._add_jobs(_WAITING_JOBS)

    def step(self) -> None:
        """Overwrite some rows, finish the oldest jobs and add as many."""
        for _ in range(_WRITES):
            self._db[row_key(self._random.randrange(ROWS))] = self._random.randbytes(VALUE_BYTES)
        for number in range(self._head, self._head + _JOBS):
            del self._db[job_key(number)]
        self._head += _JOBS
        self._add_jobs(_JOBS)

    def _add_jobs(self, count: int) -> None:
        for number in range(self._tail, self._tail + count):
            self._db[job_key(number)] = self._random.randbytes(_JOB_BYTES)
        self._tail += count
