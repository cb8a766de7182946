"""A process in whose threads everything is under way, and what must be in its database afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

_WRITERS = 2
_MOST = 1_500
_PAUSE = 0.002  # of readers, which would otherwise leave the children no processor
_JOIN_SECONDS = 60.0


class Parent:
    """Opens a database, holds a handle of every kind, and has threads that write and read until it is left.

    Attributes:
        db: The database.
        held: The handles by name, as children inherit them.
        counts: What the threads did.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "db"
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._written = [0] * _WRITERS
        self._ingested = 0
        self._failures: list[str] = []
        self._local = threading.local()
        self.db: Any = None
        self.held: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Parent:
        enter = self._stack.enter_context
        self.db = db = enter(saferocks.open(self._path))
        for number in range(50):
            db[b"held%02d" % number] = b"v"
        family = db.create_column_family("f")
        family[b"a"] = b"1"
        items, looped, cursor = enter(db.items(prefix=b"held")), enter(db.items()), enter(db.iter())
        snap = enter(db.snapshot())
        seen, batch, bulk = enter(snap.keys()), enter(db.write_batch()), enter(db.bulk_writer())
        sst, checkpoint = enter(saferocks.SstFileWriter(saferocks.Options(raw_mode=True))), enter(db.checkpoint())
        sst.open(str(self._directory / "held.sst"))
        sst[b"a"] = batch[b"batch"] = bulk[b"bulk"] = b"1"
        cursor.seek(b"held10")
        chain = iter(looped)
        next(chain)
        self.held = {
            "db": db, "family": family, "items": items, "chain": chain, "snap": snap, "seen": seen, "cursor": cursor,
            "batch": batch, "bulk": bulk, "sst": sst, "checkpoint": checkpoint,
        }  # fmt: skip
        self._start()
        return self

    def _start(self) -> None:
        tasks: list[Callable[[], None]] = [self._scan, self._snapshot, self._ingest, self._suspend]
        tasks += [lambda number=number: self._write(number) for number in range(_WRITERS)]  # type: ignore[misc]
        warm = threading.Barrier(len(tasks) + 1)
        self._threads = [threading.Thread(target=self._attempt, args=(task, warm)) for task in tasks]
        for thread in self._threads:
            thread.start()
        warm.wait(_JOIN_SECONDS)

    def _attempt(self, task: Callable[[], None], warm: threading.Barrier) -> None:
        try:
            warm.wait(_JOIN_SECONDS)
            task()
        except BaseException as error:  # noqa: BLE001 - told in the end
            self._failures.append(f"a thread of the parent's met {error!r}")

    def _write(self, number: int) -> None:
        """Put rows one by one and in batches; a number is noted only once its rows are acknowledged."""
        count = 0
        while not self._stop.is_set() and count < _MOST:
            if count % 3:
                self.db[b"w%d-%06d" % (number, count)] = b"v" * 50
                count += 1
            else:
                with self.db.write_batch() as batch:
                    for each in range(4):
                        batch[b"w%d-%06d" % (number, count + each)] = b"v" * 50
                count += 4
            self._written[number] = count
            if count % 500 < 2:
                self.db.flush()

    def _scan(self) -> None:
        while not self._stop.is_set():
            for number in range(_WRITERS):
                self._check_rows(self.db, number)
            self.counts["scans of the parent's"] += 1
            self._stop.wait(_PAUSE)

    def _snapshot(self) -> None:
        while not self._stop.is_set():
            with self.db.snapshot() as snap:
                rows = self._check_rows(snap, 0)
                if snap.get(b"w0-%06d" % rows) is not None or self._check_rows(snap, 0) != rows:
                    self._failures.append("a snapshot of the parent's moved")
            self.counts["snapshots of the parent's"] += 1
            self._stop.wait(_PAUSE)

    def _check_rows(self, source: Any, number: int) -> int:
        with source.keys(prefix=b"w%d-" % number) as keys:
            found = list(keys)
        if found != [b"w%d-%06d" % (number, each) for each in range(len(found))]:
            self._failures.append(f"a scan of the parent's missed rows of writer {number}")
        return len(found)

    def _ingest(self) -> None:
        while not self._stop.is_set():
            path = str(self._directory / f"rows{self._ingested}.sst")
            with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
                writer.open(path)
                for each in range(20):
                    writer[b"s%06d-%02d" % (self._ingested, each)] = b"v"
            self.db.ingest_external_file([path])
            self._ingested += 1
            self._stop.wait(0.02)

    def _suspend(self) -> None:
        """Hold a generator in a thread-local, which Python finishes in a forked child."""
        self._local.held = self._holding()
        next(self._local.held)
        self._stop.wait()

    def _holding(self) -> Iterator[None]:
        with self.db.items() as items, saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
            writer.open(str(self._directory / "suspended.sst"))
            writer[b"a"] = b"1"
            next(items)
            try:
                yield
            finally:
                with contextlib.suppress(saferocks.ForkedHandleError):
                    self.db[b"suspended"] = b"1" if self._stop.is_set() else b"child"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            for thread in self._threads:
                thread.join(_JOIN_SECONDS)
            self._look_at_held()
        finally:
            self.held.clear()
            self._stack.close()

    def _look_at_held(self) -> None:
        """Go on with what was held through all the forks."""
        held = self.held
        rows = [key for key, _ in held["items"]]
        if rows != [b"held%02d" % number for number in range(50)] or held["cursor"].key() != b"held10":
            self._failures.append("a scan that the parent held through the forks came out wrong")
        if held["snap"].get(b"held00") != b"v" or list(held["seen"]) != rows or len(list(held["chain"])) != 49:
            self._failures.append("a snapshot that the parent held through the forks came out wrong")
        if not (self._directory / "held.sst").exists():
            self._failures.append("a child removed the SST file that the parent was writing")

    def verify(self) -> list[str]:
        """Open the database again, at once, and compare all its rows; return what was wrong."""
        wrong = [*self._failures]
        wrong += [f"a thread of the parent's hangs: {thread}" for thread in self._threads if thread.is_alive()]
        expected = {b"held%02d" % number for number in range(50)} | {b"batch", b"bulk", b"suspended"}
        expected |= {b"w%d-%06d" % (n, each) for n in range(_WRITERS) for each in range(self._written[n])}
        expected |= {b"s%06d-%02d" % (file, each) for file in range(self._ingested) for each in range(20)}
        with saferocks.open(self._path) as db, db.items() as items:
            rows = dict(items)
            if db.get_column_family("f").get(b"child") is not None or rows.get(b"suspended") != b"1":
                wrong.append("a write of a child's reached the parent's database")
        wrong += [f"row {key!r} of the parent's is lost" for key in sorted(expected - rows.keys())[:3]]
        wrong += [f"row {key!r} is nobody's, or a child's" for key in sorted(rows.keys() - expected)[:3]]
        self.counts["rows verified"] += len(expected)
        return wrong
