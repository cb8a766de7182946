"""What is read without RocksDB: the MANIFEST, the OPTIONS file, and text that may hold anything."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import saferocks
from saferocks import _manifest, _options_file
from saferocks._text import parse, parse_bytes, printable, printable_bytes


def files_of(db: saferocks.Rdict) -> list[tuple[str, int, int]]:
    """Return RocksDB's own list of its SST files."""
    return sorted((file["name"].strip("/"), file["level"], file["size"]) for file in db.live_files())


def files_in(path: str) -> list[tuple[str, int, int]]:
    """Return the list of SST files that the MANIFEST gives."""
    return sorted((file.name, file.level, file.size) for file in _manifest.read_manifest(path).files)


@pytest.mark.parametrize("seed", range(4))
def test_the_manifest_says_what_rocksdb_says(path: str, seed: int) -> None:
    """Through openings, flushes, compactions, new and dropped column families, the lists of files are the same."""
    chance = random.Random(seed)
    for opening in range(4):
        with saferocks.open(path) as db:
            others = [name for name in db.column_families if name != "default"]
            if len(others) < 2:
                db.create_column_family(f"family {opening}")
            elif chance.random() < 0.7:
                db.drop_column_family(others[0])
            for name in db.column_families:
                family = db.get_column_family(name)
                for _ in range(chance.randrange(4)):
                    for _ in range(200):
                        family[b"%05d" % chance.randrange(10**4)] = b"v" * 100
                    family.flush()
                if chance.random() < 0.4:
                    family.compact_range(None, None)
            assert files_in(path) == files_of(db)
            found = _manifest.read_manifest(path)
            assert found.families == dict.fromkeys(db.column_families, "leveldb.BytewiseComparator")


def test_the_manifest_knows_blob_files(path: str) -> None:
    """Blob files that are needed are listed, and those that garbage collection emptied are not."""
    options = saferocks.Options(raw_mode=True)
    options.set_enable_blob_files(True)
    options.set_enable_blob_gc(True)
    options.set_blob_gc_age_cutoff(1.0)
    with saferocks.open(path, options=options) as db:
        for _ in range(3):
            for number in range(100):
                db[b"%03d" % number] = os.urandom(50)
            db.flush()
        assert len(_manifest.read_manifest(path).blobs) == 3
        db.compact_range(None, None)
        needed = _manifest.read_manifest(path).blobs
        assert {f"{number:06d}.blob" for number in needed} == {file.name for file in Path(path).glob("*.blob")}
        assert len(needed) == 1


def test_a_cut_off_manifest_is_read_as_far_as_it_goes(db: saferocks.Rdict, path: str) -> None:
    """Wherever a crash has cut off the MANIFEST, what is read is one of its states, each later than the last."""
    states = [files_in(path)]
    for key in (b"a", b"b"):
        db[key] = b"1"
        db.flush()
        states.append(files_in(path))
    name = _manifest.read_manifest(path).name
    db.close()
    file = Path(path, name)
    content = file.read_bytes()
    seen = []
    for length in range(len(content)):
        file.write_bytes(content[:length])
        seen.append(states.index(files_in(path)))
    assert sorted(seen) == seen
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize("content", [b"nonsense\n", b"", b"../MANIFEST-000001\n", b"MANIFEST-00000\0\n"])
def test_a_current_that_names_no_manifest(path: str, content: bytes) -> None:
    """A CURRENT that names something else, or a file elsewhere, is corruption."""
    Path(path).mkdir()
    Path(path, "CURRENT").write_bytes(content)
    with pytest.raises(saferocks.CorruptionError, match="no MANIFEST"):
        _manifest.read_manifest(path)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_nonsense_in_a_manifest_is_corruption(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes as a record of the MANIFEST are read or are corruption, and nothing else."""
    folder = tmp_path_factory.mktemp("db")
    record = bytes(4) + len(data).to_bytes(2, "little") + b"\1" + data
    (folder / "CURRENT").write_bytes(b"MANIFEST-000001\n")
    (folder / "MANIFEST-000001").write_bytes(record)
    try:
        _manifest.read_manifest(str(folder))
    except saferocks.CorruptionError:
        pass


def test_the_options_file_gives_what_is_in_force(path: str) -> None:
    """The newest OPTIONS file has the options of the last opening, by column family."""
    for megabytes in (4, 8):
        options = saferocks.Options(raw_mode=True)
        options.set_write_buffer_size(megabytes << 20)
        with saferocks.open(path, options=options) as db:
            if megabytes == 8:
                db.create_column_family("users", options)
    found = _options_file.read_options_file(path)
    sizes = {name: values["write_buffer_size"] for (kind, name), values in found.items() if kind == "CFOptions"}
    assert sizes == {"default": str(8 << 20), "users": str(8 << 20)}
    assert found["Version", ""]["rocksdb_version"].count(".") == 2


def test_the_options_of_families_with_odd_names(path: str) -> None:
    """The options of a column family are found by its own name, whatever RocksDB has to escape in it."""
    names = {"a:b", "#c", "d\\e", "f\ng", "h\x0bi\u2028"}
    with saferocks.open(path) as db:
        for name in names:
            db.create_column_family(name)
    found = {name for kind, name in _options_file.read_options_file(path) if kind == "CFOptions"}
    assert found == {"default", *names}


@given(st.text())
def test_text_is_shown_in_printable_characters_and_read_back(text: str) -> None:
    """Any text comes out printable, and reading that gives the text again."""
    assert printable(text).isprintable()
    assert parse(printable(text)) == text


@given(st.binary())
def test_bytes_are_shown_in_printable_characters_and_read_back(data: bytes) -> None:
    """Any bytes come out printable, and reading that gives the bytes again."""
    assert printable_bytes(data).isprintable()
    assert parse_bytes(printable_bytes(data)) == data


def test_a_lone_surrogate_is_shown() -> None:
    """A file name that is no text, as Python has it, comes out printable too."""
    assert printable("a\udcff\x1b[2J\u202e") == "a\\udcff\\x1b[2J\\u202e"
