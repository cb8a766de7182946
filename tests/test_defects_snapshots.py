"""D15, snapshots that do not hold still: what saferocks does, and canaries for rocksdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    pass

RAW = rocksdict.Options(raw_mode=True)


def read_all(scope: saferocks.Scope[Any]) -> list[Any]:
    """Return all that a scan yields."""
    with scope as scan:
        return list(scan)


def test_d15_a_snapshot_of_a_secondary_is_refused(path: str) -> None:
    """A secondary, whose snapshots would move, refuses them with the remedy, and reads on without."""
    with saferocks.open(path) as db:
        db[b"k"] = b"1"
        db.flush()
        access = saferocks.AccessType.secondary(f"{path}-secondary")
        with saferocks.open(path, access_type=access) as secondary:
            for family in (secondary, secondary.get_column_family("default")):
                with pytest.raises(saferocks.NotSupportedError, match=r"newer data after each catch-up.*read_only"):
                    family.snapshot()
            db[b"k"] = b"2"
            before = secondary[b"k"]
            secondary.try_catch_up_with_primary()
            assert (before, secondary[b"k"], read_all(secondary.keys())) == (b"1", b"2", [b"k"])


def test_d15_a_snapshot_of_a_read_only_database_holds_still(path: str) -> None:
    """A read-only database can be read through a snapshot, while its primary writes."""
    with saferocks.open(path) as db:
        db[b"k"] = b"1"
        db.flush()
        with saferocks.open(path, access_type=saferocks.AccessType.read_only()) as reader, reader.snapshot() as snap:
            db[b"k"] = b"2"
            db.flush()
            assert (snap[b"k"], read_all(snap.items())) == (b"1", [(b"k", b"1")])


def test_d15_a_scan_of_a_secondary_holds_still(path: str) -> None:
    """A scan of a secondary shows the state at its opening, also after a catch-up."""
    with saferocks.open(path) as db:
        db[b"k"] = b"1"
        access = saferocks.AccessType.secondary(f"{path}-secondary")
        with saferocks.open(path, access_type=access) as secondary:
            secondary.try_catch_up_with_primary()
            with secondary.items() as items:
                db[b"k"], db[b"l"] = b"2", b"2"
                db.flush()
                secondary.try_catch_up_with_primary()
                assert list(items) == [(b"k", b"1")]


def test_d15_the_documentation_of_ttl_warns_of_snapshots() -> None:
    """`AccessType.with_ttl` says that snapshots do not protect expired rows."""
    text = " ".join((saferocks.AccessType.with_ttl.__doc__ or "").split())
    assert "A snapshot does not protect rows whose time has run out." in text


def test_d15_canary_a_snapshot_of_a_secondary_moves(path: str, bare: rocksdict.Rdict) -> None:
    """In rocksdict, a snapshot of a secondary shows newer data after a catch-up."""
    bare[b"k"] = b"1"
    bare.flush()
    secondary = rocksdict.Rdict(path, RAW, access_type=rocksdict.AccessType.secondary(f"{path}-secondary"))
    snap = secondary.snapshot()
    before = snap[b"k"]
    bare[b"k"] = b"2"
    bare.flush()
    secondary.try_catch_up_with_primary()
    after = snap[b"k"]
    del snap
    secondary.close()
    assert (before, after) == (b"1", b"2"), "D15 is mended: saferocks can allow snapshots of secondaries"


@pytest.mark.slow
def test_d15_canary_a_snapshot_does_not_protect_expired_rows(path: str) -> None:
    """In rocksdict, a compaction drops expired rows that a snapshot can still see."""
    bare = rocksdict.Rdict(path, RAW, access_type=rocksdict.AccessType.with_ttl(1))
    bare[b"k"] = b"v"
    bare.flush()
    snap = bare.snapshot()
    options = rocksdict.CompactOptions()
    options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
    before, kept = snap[b"k"], True
    for _ in range(5000):  # some two seconds; RocksDB counts whole ones
        bare.compact_range(None, None, options)
        try:
            snap[b"k"]
        except Exception:
            kept = False
            break
    del snap
    bare.close()
    assert (before, kept) == (b"v", False), "D15 is mended: AccessType.with_ttl need not warn of snapshots"
