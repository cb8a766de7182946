"""D23: a secondary of a damaged database silently shows an older state, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rocksdict

import saferocks


@pytest.fixture
def damaged(path: str) -> str:
    """A closed raw database of 1,000 rows whose only SST file has been cut."""
    with saferocks.open(path) as db:
        for number in range(1000):
            db[b"%04d" % number] = b"v" * 100
        db.flush()
    (table,) = Path(path).glob("*.sst")
    os.truncate(table, 50)
    return path


def open_secondary(path: str, tmp_path: Path) -> saferocks.Scope[saferocks.Rdict]:
    """Open a saferocks secondary of a database."""
    return saferocks.open(path, access_type=saferocks.AccessType.secondary(str(tmp_path / "secondary")))


def test_d23_a_secondary_of_a_damaged_database_is_refused(damaged: str, tmp_path: Path) -> None:
    """A secondary that cannot see all of the database raises CorruptionError, and leaves nothing open."""
    with pytest.raises(saferocks.CorruptionError):
        open_secondary(damaged, tmp_path)
    assert saferocks.open_handles() == ()


def test_d23_a_secondary_of_a_missing_file_is_refused(damaged: str, tmp_path: Path) -> None:
    """A secondary of a database that has lost a file is refused as well."""
    (table,) = Path(damaged).glob("*.sst")
    table.unlink()
    with pytest.raises(saferocks.EngineError):
        open_secondary(damaged, tmp_path)


def test_d23_a_secondary_of_a_live_primary_opens(path: str, tmp_path: Path) -> None:
    """A primary that is being written has a secondary that opens, reads and catches up."""
    with saferocks.open(path) as db:
        db[b"a"] = b"1"
        db.flush()
        with open_secondary(path, tmp_path) as secondary:
            db[b"b"] = b"2"
            db.flush()
            secondary.try_catch_up_with_primary()
            assert (secondary[b"a"], secondary[b"b"]) == (b"1", b"2")


def test_d23_a_secondary_that_sees_less_than_a_reader_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary whose files are not those of the database raises, even if nothing else fails."""
    with saferocks.open(path) as db:
        db[b"a"] = b"1"
        db.flush()
        seen = saferocks._engine.file_names  # type: ignore[attr-defined]
        calls: list[frozenset[str]] = []

        def every_other_is_blind(rdict: object) -> frozenset[str]:
            calls.append(seen(rdict))
            return frozenset() if len(calls) % 2 else calls[-1]

        monkeypatch.setattr("saferocks._engine.file_names", every_other_is_blind)
        with pytest.raises(saferocks.CorruptionError, match="does not see files"):
            open_secondary(path, tmp_path)


def test_d23_canary_a_secondary_of_a_damaged_database_is_empty(damaged: str, tmp_path: Path) -> None:
    """On bare rocksdict the secondary opens, and a row that was written is not there."""
    options = rocksdict.Options(raw_mode=True)
    access = rocksdict.AccessType.secondary(str(tmp_path / "bare"))
    secondary = rocksdict.Rdict(damaged, options, access_type=access)
    found = secondary.get(b"0001")
    secondary.close()
    assert found is None, "D23 is mended upstream: _opening._check_secondary can go"
