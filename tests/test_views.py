"""Fixed views: what changes between two native openings without a new sequence number does not tear them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import saferocks
from saferocks import _views
from tests.intrusions import run_with_intrusion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = {_views.__file__}
SECONDS = 60.0


class Rows:
    """Rows of one key prefix: `a` and `c` are written, `b` and `d` ingested, in a file each.

    The files overlap with nothing, so RocksDB gives them the sequence number 0 and does not count on.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.prefix = b"%04d" % number
        self.all = [self.prefix + letter for letter in (b"a", b"b", b"c", b"d")]
        self.old, self.new = self.all[::2], self.all[1::2]
        self.files = [str(directory / f"{number}-{letter}.sst") for letter in "bd"]

    def prepare(self, db: saferocks.Rdict) -> None:
        """Write `a` and `c`, and the files."""
        for key in self.old:
            db[key] = b"v"
        for key, file in zip(self.new, self.files, strict=True):
            with saferocks.SstFileWriter(saferocks.Options(raw_mode=True)) as writer:
                writer.open(file)
                writer[key] = b"v"

    def ingest(self, db: saferocks.Rdict) -> None:
        """Take the files in, both at once."""
        before = db.latest_sequence_number()
        db.ingest_external_file(self.files)
        assert db.latest_sequence_number() == before

    def scan(self, source: saferocks.Rdict | saferocks.Snapshot | saferocks.SnapshotFamily) -> list[bytes]:
        """Return the keys that a scan shows."""
        with source.keys(prefix=self.prefix) as keys:
            return list(keys)

    def is_whole(self, keys: list[bytes]) -> bool:
        """Tell whether a scan has shown both of the files, or neither."""
        return keys in (self.old, self.all)


@pytest.fixture
def many_rows(tmp_path: Path, db: saferocks.Rdict) -> Iterator[Rows]:
    """Rows of one prefix after the other, written to the database."""

    def prepared() -> Iterator[Rows]:
        for number in count():
            rows = Rows(tmp_path, number)
            rows.prepare(db)
            yield rows

    return prepared()


def torn(
    many_rows: Iterator[Rows], read: Callable[[Rows], bool], intrude: Callable[[Rows], Any], stride: int = 1
) -> list[int]:
    """Read with an intrusion before instructions of the views; returns the moments at which a view was torn."""
    found: list[int] = []
    for moment, rows in zip(count(step=stride), many_rows, strict=False):
        whole: list[bool] = []
        reached = run_with_intrusion(
            lambda rows=rows, whole=whole: whole.append(read(rows)), lambda rows=rows: intrude(rows), moment, FILES
        )
        if not reached:
            break
        if whole != [True]:
            found.append(moment)
    assert moment > 40
    return found


def test_an_ingestion_while_a_scan_is_opened(db: saferocks.Rdict, many_rows: Iterator[Rows]) -> None:
    """The scan shows all of the ingested files or none, whenever in its opening they come."""
    assert torn(many_rows, lambda rows: rows.is_whole(rows.scan(db)), lambda rows: rows.ingest(db)) == []


def test_an_ingestion_through_a_column_family(db: saferocks.Rdict, many_rows: Iterator[Rows]) -> None:
    """It is noticed wherever it comes from: the scan of another handle is no more torn by it."""
    family = db.get_column_family("default")
    assert torn(many_rows, lambda rows: rows.is_whole(rows.scan(db)), lambda rows: rows.ingest(family)) == []


def test_a_catch_up_while_a_scan_is_opened(tmp_path: Path, db: saferocks.Rdict, many_rows: Iterator[Rows]) -> None:
    """A secondary's scan shows all that its primary has ingested, or nothing, whenever in its opening it catches up."""
    following = saferocks.AccessType.secondary(str(tmp_path / "secondary"))
    with saferocks.open(db.path(), access_type=following) as secondary:

        def follow(rows: Rows) -> None:
            before = secondary.latest_sequence_number()
            rows.ingest(db)
            secondary.try_catch_up_with_primary()
            assert secondary.latest_sequence_number() == before

        def read(rows: Rows) -> bool:
            return rows.is_whole(rows.scan(secondary))

        def caught_up() -> Iterator[Rows]:
            for rows in many_rows:
                secondary.try_catch_up_with_primary()
                yield rows

        assert torn(caught_up(), read, follow) == []


class Halting:
    """An ingestion on another thread that has begun, and has come past RocksDB only when it is told to.

    It ends when the block does.
    """

    def __init__(self, db: saferocks.Rdict, rows: Rows) -> None:
        self._db, self._rows = db, rows
        self._begun, self._go, self._done, self._end = (threading.Event() for _ in range(4))
        self._thread = threading.Thread(target=lambda: db._record.owner.changes.make(self._change), daemon=True)

    def _change(self) -> None:
        self._begun.set()
        assert self._go.wait(SECONDS)
        self._db._record.live.ingest_external_file(self._rows.files)
        self._done.set()
        assert self._end.wait(SECONDS)

    def __enter__(self) -> Halting:
        self._thread.start()
        assert self._begun.wait(SECONDS)
        return self

    def ingest(self) -> None:
        """Let RocksDB ingest the files, and no more."""
        self._go.set()
        assert self._done.wait(SECONDS)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._end.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_an_ingestion_under_way_while_a_scan_is_opened(db: saferocks.Rdict, many_rows: Iterator[Rows]) -> None:
    """An ingestion that had begun before the opening and ends after it does not tear the scan, nor hold it up."""
    ingestions: dict[Rows, Halting] = {}

    def read(rows: Rows) -> bool:
        with Halting(db, rows) as ingestions[rows]:
            return rows.is_whole(rows.scan(db))

    assert torn(many_rows, read, lambda rows: ingestions[rows].ingest()) == []


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("busy", [True, False])
def test_ingestions_while_a_snapshot_is_opened(
    db: saferocks.Rdict, many_rows: Iterator[Rows], consistent: bool, busy: bool
) -> None:
    """Who sees the later of two ingestions in different column families sees the earlier one as well.

    It is so with another one under way all the time, and without the consistency that RocksDB gives by new numbers.
    """
    families = [db.create_column_family(name) for name in "fg"]
    options = saferocks.IngestExternalFileOptions()
    options.set_snapshot_consistency(consistent)

    def ingest(rows: Rows) -> None:
        for each, file in zip(families, rows.files, strict=True):
            each.ingest_external_file([file], options)

    def read(rows: Rows) -> bool:
        earlier, later = rows.new
        with db.snapshot(column_families=["f", "g"]) as snap:
            return later not in rows.scan(snap.get_column_family("g")) or earlier in rows.scan(
                snap.get_column_family("f")
            )

    with Halting(db, next(many_rows)) if busy else nullcontext():
        assert torn(many_rows, read, ingest, stride=4) == []


class Meddling:
    """A native database that something always happens to after a scan has been opened."""

    def __init__(self, native: Any, meddle: Callable[[], None]) -> None:
        self._native, self._meddle = native, meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def keys(self, *arguments: Any) -> Any:
        """Open a scan, and meddle."""
        scan = self._native.keys(*arguments)
        self._meddle()
        return scan


def test_writes_that_never_let_a_scan_settle(db: saferocks.Rdict) -> None:
    """A scan that cannot be opened at one instant is refused as busy, and holds nothing."""
    meddling = Meddling(db._record.live, lambda: db.put(b"k", b"v"))
    options = saferocks.ReadOptions().native()
    with pytest.raises(saferocks.BusyError, match=r"^Resource busy: writers came in between on each of 1000 tries"):
        _views.open_scan(meddling, db._record.owner.changes, "keys", False, None, options)
    assert db.audit().live_iterators == 0


def test_an_ingestion_that_fails_is_over(db: saferocks.Rdict) -> None:
    """It leaves nothing under way, which would make every later opening slow."""
    with pytest.raises(saferocks.IOFailedError):
        db.ingest_external_file(["no-such.sst"])
    assert not db._record.owner.changes.under_way


@pytest.mark.parametrize("kind", [TimeoutError, KeyboardInterrupt])
def test_an_interrupt_of_an_ingestion(
    db: saferocks.Rdict, many_rows: Iterator[Rows], kind: type[BaseException]
) -> None:
    """At whatever instruction it strikes, it comes out, and leaves nothing under way."""

    def strike() -> None:
        raise kind

    changes = db._record.owner.changes
    for moment, rows in enumerate(many_rows):
        try:
            if not run_with_intrusion(lambda rows=rows: rows.ingest(db), strike, moment, FILES):
                break
        except kind:
            assert not changes.under_way, moment
        else:
            pytest.fail(f"lost at {moment}")
    assert moment > 20
