"""The writer of the crash test: carries out its steps until it is killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import saferocks
from stress.faults.crash_stream import Kind, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

    from stress.faults.crash_oracle import Oracle

_KIB = 1 << 10


@dataclass(frozen=True)
class Settings:
    """How the database of a round is set up: so that memtables are flushed and files compacted all the time.

    Attributes:
        memtable: Its size in bytes.
        trigger: How many files are compacted.
        wal: The most bytes of write-ahead logs, which makes RocksDB flush the column family that is behind; 0 for none.
        atomic_flush: Whether all column families are flushed as one.
        pipelined: Whether the log and the memtables are written at the same time.
        recycled: How many old logs are written over.
    """

    memtable: int
    trigger: int
    wal: int
    atomic_flush: bool
    pipelined: bool
    recycled: int

    @classmethod
    def chosen(cls, random: Random) -> Settings:
        """Return the settings of a round."""
        atomic = random.random() < 0.25
        return cls(
            memtable=random.choice((8, 32, 128)) * _KIB,
            trigger=random.randint(2, 4),
            wal=random.choice((0, 256 * _KIB)),
            atomic_flush=atomic,
            pipelined=not atomic and random.random() < 0.25,  # RocksDB refuses both at once
            recycled=random.choice((0, 0, 2)),
        )

    def options(self) -> saferocks.Options:
        """Return them as RocksDB takes them. How a log is recovered is left at RocksDB's default, point in time."""
        options = saferocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(self.memtable)
        options.set_level_zero_file_num_compaction_trigger(self.trigger)
        options.set_max_bytes_for_level_base(8 * self.memtable)
        options.set_target_file_size_base(2 * self.memtable)
        options.set_max_total_wal_size(self.wal)
        options.set_atomic_flush(self.atomic_flush)
        options.set_enable_pipelined_write(self.pipelined)
        options.set_recycle_log_file_num(self.recycled)
        options.set_keep_log_file_num(4)
        return options


def write(path: str, settings: Settings, steps: Iterator[Step], oracle: Oracle) -> None:
    """Carry out the steps until the process is killed; opens the database anew where a step says so."""
    while True:
        with saferocks.open(path, options=settings.options()) as db:
            writer = _Writer(db, settings)
            for step in steps:
                oracle.issue(step)
                if step.kind is Kind.REOPEN:
                    break
                writer.carry_out(step)
                oracle.commit(step)


class _Writer:
    """Carries out steps on an open database."""

    def __init__(self, db: saferocks.Rdict, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._families = {name: db.get_column_family(name) for name in db.column_families}
        self._handles = {name: db.get_column_family_handle(name) for name in db.column_families}
        self._synced = saferocks.WriteOptions()
        self._synced.sync = True

    def carry_out(self, step: Step) -> None:
        """Carry out a step; it is acknowledged when this returns."""
        if step.kind in (Kind.PUT, Kind.DELETE):
            self._write_row(step)
        elif step.kind is Kind.BATCH:
            self._write_batch(step)
        elif step.kind is Kind.BULK:
            with self._families[step.family].bulk_writer(flush_bytes=step.flush_bytes) as bulk:
                for _family, key, value in step.rows:
                    if value is None:
                        bulk.delete(key)
                    else:
                        bulk[key] = value
        else:
            self._manage(step)

    def _write_row(self, step: Step) -> None:
        ((name, key, value),) = step.rows
        options = self._synced if step.sync else None
        if value is None:
            self._families[name].delete(key, options)
        else:
            self._families[name].put(key, value, options)

    def _write_batch(self, step: Step) -> None:
        if not step.sync:
            with self._db.write_batch() as batch:
                self._fill(batch, step.rows)
            return
        with saferocks.WriteBatch(raw_mode=True) as batch:
            self._fill(batch, step.rows)
            self._db.write(batch, self._synced)

    def _fill(self, batch: saferocks.WriteBatch, rows: Iterable[tuple[str, bytes, bytes | None]]) -> None:
        for name, key, value in rows:
            if value is None:
                batch.delete(key, self._handles[name])
            else:
                batch.put(key, value, self._handles[name])

    def _manage(self, step: Step) -> None:
        name = step.family
        if step.kind is Kind.CREATE:
            self._families[name] = self._db.create_column_family(name, self._settings.options())
            self._handles[name] = self._db.get_column_family_handle(name)
        elif step.kind is Kind.DROP:
            del self._families[name], self._handles[name]
            self._db.drop_column_family(name)
        elif step.kind is Kind.FLUSH:
            self._families[name].flush()
        else:
            self._families[name].compact_range(None, None)
