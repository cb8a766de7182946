"""D17, the SST file that nobody finished, and D28, copies that lack rows: what saferocks does, and canaries."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from types import FrameType

RAW = rocksdict.Options(raw_mode=True)


def write_rows(writer: Any) -> None:
    """Write enough rows for a part of them to be on disk."""
    for number in range(1000):
        writer[b"k%05d" % number] = b"%05d" % number * 200


def test_d17_an_exception_removes_the_unfinished_file(tmp_path: Path) -> None:
    """A writer that is left by an exception leaves no file behind."""
    with pytest.raises(LookupError), saferocks.SstFileWriter(RAW) as writer:
        writer.open(str(tmp_path / "rows.sst"))
        write_rows(writer)
        raise LookupError
    assert list(tmp_path.iterdir()) == []


def test_d17_a_clean_exit_finishes_the_file(db: saferocks.Rdict, tmp_path: Path) -> None:
    """A writer that is left cleanly has finished its file, which can be ingested."""
    file = str(tmp_path / "rows.sst")
    with saferocks.SstFileWriter(RAW) as writer:
        writer.open(file)
        write_rows(writer)
    db.ingest_external_file([file])
    assert db[b"k00999"] == b"00999" * 200


def test_d17_a_finished_file_survives_an_exception(db: saferocks.Rdict, tmp_path: Path) -> None:
    """What was finished stays, whatever happens to the writer afterwards."""
    file = str(tmp_path / "rows.sst")
    with pytest.raises(LookupError), saferocks.SstFileWriter(RAW) as writer:
        writer.open(file)
        write_rows(writer)
        writer.finish()
        raise LookupError
    db.ingest_external_file([file])
    assert db[b"k00000"] == b"00000" * 200


def test_d17_an_interrupt_of_the_opening_removes_the_file(tmp_path: Path) -> None:
    """Where Ctrl-C comes as RocksDB has made the file, it goes with the writer; one that was there before stays."""
    file = tmp_path / "rows.sst"

    def interrupt(frame: FrameType, event: str, function: Any) -> None:
        if event == when and getattr(function, "__name__", frame.f_code.co_name) == "open":
            sys.setprofile(None)
            raise KeyboardInterrupt

    for when, before, after in (("call", None, None), ("c_return", None, None), ("call", b"old", b"old")):
        if before is not None:
            file.write_bytes(before)
        with pytest.raises(KeyboardInterrupt), saferocks.SstFileWriter(RAW) as writer:
            sys.setprofile(interrupt)
            writer.open(str(file))
        assert (file.read_bytes() if file.exists() else None) == after, when


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What finalizers could not raise, as it arrives; leaks of earlier tests are forgotten."""
    saferocks.check()
    found: list[str] = []

    def hook(args: sys.UnraisableHookArgs) -> None:
        found.append(f"{type(args.exc_value).__name__}: {args.exc_value}")

    monkeypatch.setattr("sys.unraisablehook", hook)
    return found


@pytest.mark.about_leaks
def test_d17_a_dropped_writer_is_reported_and_its_file_removed(tmp_path: Path, unraisable: list[str]) -> None:
    """A writer that is dropped unfinished is a leak: a warning names its line, and its file is removed."""
    file = tmp_path / "rows.sst"
    writer = saferocks.SstFileWriter(RAW)
    writer.__enter__()
    writer.open(str(file))
    write_rows(writer)
    del writer
    gc.collect()
    assert len(unraisable) == 1
    assert unraisable[0].startswith(f"LeakedHandleWarning: sst_writer opened at {__file__}:")
    assert f"its unfinished file {str(file)!r} was removed" in unraisable[0]
    assert not file.exists()


@pytest.mark.about_leaks
def test_d17_a_writer_used_without_with_is_reported_too(tmp_path: Path, unraisable: list[str]) -> None:
    """A writer that was used without `with`, and dropped unfinished, is a leak as well, and its file is removed."""
    file = tmp_path / "rows.sst"
    writer = saferocks.SstFileWriter(RAW)
    with pytest.warns(saferocks.UnscopedHandleWarning, match="SstFileWriter"):
        writer.open(str(file))
    write_rows(writer)
    del writer
    gc.collect()
    assert len(unraisable) == 1
    assert f"its unfinished file {str(file)!r} was removed" in unraisable[0]
    assert not file.exists()


@pytest.mark.about_leaks
@pytest.mark.usefixtures("strict")
def test_d17_a_strict_program_hears_of_a_dropped_writer_twice(tmp_path: Path, unraisable: list[str]) -> None:
    """Under the policy `raise`, a dropped writer is reported at once, and raised by the next check."""
    file = tmp_path / "rows.sst"
    writer = saferocks.SstFileWriter(RAW)
    writer.__enter__()
    writer.open(str(file))
    del writer
    gc.collect()
    assert [text.partition(":")[0] for text in unraisable] == ["LeakedHandlesError"]
    with pytest.raises(saferocks.LeakedHandlesError, match=r"rows\.sst' was removed"):
        saferocks.check()
    assert not file.exists()


def test_d17_an_empty_file_cannot_be_finished(tmp_path: Path) -> None:
    """Leaving a writer whose file has no row raises InvalidArgumentError, and removes the file."""
    with pytest.raises(saferocks.InvalidArgumentError, match="no entries"), saferocks.SstFileWriter(RAW) as writer:
        writer.open(str(tmp_path / "rows.sst"))
    assert list(tmp_path.iterdir()) == []


def test_d17_a_second_open_does_not_abandon_the_first_file(tmp_path: Path) -> None:
    """A writer refuses a second file while the first is unfinished, and finishes the first."""
    with saferocks.SstFileWriter(RAW) as writer:
        writer.open(str(tmp_path / "first.sst"))
        writer[b"k"] = b"v"
        with pytest.raises(saferocks.InvalidArgumentError, match=r"has not finished.*call finish\(\) first"):
            writer.open(str(tmp_path / "second.sst"))
    assert [file.name for file in tmp_path.iterdir()] == ["first.sst"]


def test_d17_canary_an_unfinished_writer_leaves_a_damaged_file(tmp_path: Path, bare: rocksdict.Rdict) -> None:
    """In rocksdict, a writer that is dropped unfinished leaves a file that is corrupt when it is ingested."""
    file = tmp_path / "rows.sst"
    writer = rocksdict.SstFileWriter(RAW)
    writer.open(str(file))
    write_rows(writer)
    del writer
    with pytest.raises(Exception, match="Bad table magic number"):
        if file.exists():
            bare.ingest_external_file([str(file)])
        pytest.fail("D17 is mended: saferocks' SST writer need not remove its unfinished file")


# --------------------------------------------------------------------------- copies through what is open for reading


def reading(path: str, kind: str) -> saferocks.AccessType:
    """Return one of the two ways to open a database for reading."""
    if kind == "read_only":
        return saferocks.AccessType.read_only()
    return saferocks.AccessType.secondary(f"{path}-secondary")


@pytest.mark.parametrize("kind", ["read_only", "secondary"])
def test_d28_a_copy_for_reading_is_whole_or_refused(db: saferocks.Rdict, path: str, tmp_path: Path, kind: str) -> None:
    """A checkpoint through a handle for reading holds what that shows; if it would lack rows it is refused."""
    users = db.create_column_family("users")
    for family in (db, users):
        family[b"a"] = b"1"
        family.flush()
    users[b"a"] = b"2"
    with saferocks.open(path, access_type=reading(path, kind)) as reader, reader.checkpoint() as checkpoint:
        assert reader.get_column_family("users")[b"a"] == b"2"
        with pytest.raises(saferocks.NotSupportedError, match="'users' that are in the write-ahead log alone; flush"):
            checkpoint.create(tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    users.flush()
    with saferocks.open(path, access_type=reading(path, kind)) as reader, reader.checkpoint() as checkpoint:
        checkpoint.create(tmp_path / "copy")
    with saferocks.open(tmp_path / "copy") as copy:
        assert (copy[b"a"], copy.get_column_family("users")[b"a"]) == (b"1", b"2")


@pytest.mark.parametrize("kind", ["read_only", "secondary"])
def test_d28_a_copy_without_some_column_families_is_refused(
    db: saferocks.Rdict, path: str, tmp_path: Path, kind: str
) -> None:
    """A checkpoint through a handle that was opened without all column families is refused, by their names."""
    db.create_column_family("users")[b"a"] = b"1"
    db.get_column_family("users").flush()
    terms: dict[str, Any] = {
        "access_type": reading(path, kind),
        "column_families": {"default": saferocks.Options(True)},
    }
    with (
        saferocks.open(path, **terms) as reader,
        reader.checkpoint() as checkpoint,
        pytest.raises(saferocks.NotSupportedError, match=r"without column families \['users'\]"),
    ):
        checkpoint.create(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("kind", ["read_only", "secondary"])
def test_d28_canary_a_copy_for_reading_lacks_rows(bare: rocksdict.Rdict, path: str, tmp_path: Path, kind: str) -> None:
    """In RocksDB, a checkpoint through a handle for reading lacks the rows of the log, and tells nobody."""
    bare[b"a"] = b"1"
    bare.flush()
    bare[b"a"] = b"2"
    access = rocksdict.AccessType.read_only()
    if kind == "secondary":
        access = rocksdict.AccessType.secondary(f"{path}-secondary")
    reader = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True), access_type=access)
    assert reader[b"a"] == b"2"
    checkpoint = rocksdict.Checkpoint(reader)
    checkpoint.create_checkpoint(str(tmp_path / "copy"))
    del checkpoint
    reader.close()
    copy = rocksdict.Rdict(str(tmp_path / "copy"), rocksdict.Options(raw_mode=True))
    found = copy[b"a"]
    copy.close()
    assert found == b"1", "D28 is mended: _check_copyable in _files can go"
