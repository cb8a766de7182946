"""What a MANIFEST says the database consists of, read without RocksDB.

RocksDB names the first file that is missing and opens nothing. To name all of them, and to tell what
is left over, the MANIFEST is read here: a log of records in blocks of 32 KiB, each record a
`VersionEdit`, a list of tags with their values (RocksDB 9.8, `db/log_format.h`, `db/version_edit.h`).
Checksums are left to RocksDB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saferocks.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 32768
_HEADER = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class LiveFile:
    """An SST file that a column family needs.

    Attributes:
        family: The name of the column family.
        level: Its level.
        number: Its number, which is its name.
        size: Its size in bytes.
        path_id: Which of the directories of the database it is in; 0 is the first.
    """

    family: str
    level: int
    number: int
    size: int
    path_id: int = 0

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.number:06d}.sst"


@dataclass
class Family:
    """A column family as the records so far leave it."""

    name: str
    comparator: str = ""
    log_number: int = 0
    files: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    #: Blob files, with how many of their values are still needed.
    blobs: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a MANIFEST says.

    Attributes:
        name: Its own name.
        families: The column families, by name, each with its comparator.
        files: All SST files that are needed.
        blobs: The numbers of all blob files that are needed.
        oldest_log: The lowest number of a write-ahead log that is needed.
        remade: The names under which there was another column family before, which was dropped.
    """

    name: str
    families: dict[str, str]
    files: tuple[LiveFile, ...]
    blobs: frozenset[int]
    oldest_log: int
    remade: frozenset[str]


def read_manifest(directory: str, moment: tuple[str, int] | None = None) -> Manifest:
    """Read the MANIFEST that CURRENT names.

    Args:
        directory: The directory of the database.
        moment: The name of the MANIFEST and its size at an earlier moment, to be read as it was then.

    Raises:
        OSError: If one of the two cannot be read.
        CorruptionError: If they are not what RocksDB writes.
    """
    name, data = _read(directory) if moment is None else (moment[0], _read_head(directory, *moment))
    families: dict[int, Family] = {}
    dropped: set[str] = set()
    try:
        for record in _records(data):
            _apply(_Reader(record), families, dropped)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise CorruptionError(f"Corruption: {name} of {directory!r} is damaged ({error!r})", code=2) from error
    return _summed_up(name, families, dropped)


def _read(directory: str) -> tuple[str, bytes]:
    """Read the MANIFEST that CURRENT names; again if a writer has put another one in its place meanwhile."""
    while True:
        name = current_name(directory)
        try:
            with open(os.path.join(directory, name), "rb") as file:
                return name, file.read()
        except FileNotFoundError:
            if current_name(directory) == name:
                raise


def _read_head(directory: str, name: str, size: int) -> bytes:
    with open(os.path.join(directory, name), "rb") as file:
        return file.read(size)


def current_name(directory: str) -> str:
    """Return the name of the MANIFEST that CURRENT names.

    Raises:
        OSError: If CURRENT cannot be read.
        CorruptionError: If it names something else.
    """
    with open(os.path.join(directory, "CURRENT"), "rb") as file:
        name = file.read(256).decode("latin-1").strip()
    if os.path.basename(name) != name or not name.startswith("MANIFEST-") or "\0" in name:
        raise CorruptionError(f"Corruption: CURRENT of {directory!r} names {name!r}, which is no MANIFEST", code=2)
    return name


def _summed_up(name: str, families: dict[int, Family], dropped: set[str]) -> Manifest:
    return Manifest(
        name=name,
        families={each.name: each.comparator for each in families.values()},
        files=tuple(
            LiveFile(each.name, level, number, size, path_id)
            for each in families.values()
            for number, (level, size, path_id) in sorted(each.files.items())
        ),
        blobs=frozenset(number for each in families.values() for number, left in each.blobs.items() if left > 0),
        oldest_log=min((each.log_number for each in families.values()), default=0),
        remade=frozenset(each.name for each in families.values() if each.name in dropped),
    )


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the whole records of a log; what a crash has cut off at its end is none."""
    parts: list[bytes] = []
    at = 0
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        end = at + _HEADER + length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or end > len(data):
            return
        if kind in (_FULL, _FIRST):
            parts.clear()
        parts.append(data[at + _HEADER : end])
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
        at = end


class _Reader:
    """Reads the fields of a record, one after the other; IndexError at its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def varint(self) -> int:
        result = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint
                return result

    def text(self) -> bytes:
        length = self.varint()
        found = self.data[self.at : self.at + length]
        if len(found) != length:
            raise IndexError("a field is cut off")
        self.at += length
        return found

    def skip_fields(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield fields that newer versions add, as tag and content, until the tag that ends them."""
        while (tag := self.varint()) != end:
            yield tag, self.text()


# Tags of a VersionEdit.
_COMPARATOR, _LOG_NUMBER, _DELETED_FILE, _COMPACT_CURSOR = 1, 2, 6, 5
_NUMBERS = frozenset({3, 4, 9, 10, 203, 300})  # values of one number that nothing here needs
_NEW_FILES = frozenset({7, 100, 102, 103})
_FAMILY, _FAMILY_ADDED, _FAMILY_DROPPED = 200, 201, 202
_BLOB_ADDED, _BLOB_GARBAGE = 400, 401
_IGNORABLE = 1 << 13  # tags from here on carry their length
_PATH_ID = 65


@dataclass
class _Edit:
    """A VersionEdit; it is for the column family that it names, wherever it names it."""

    family: int = 0
    added: str | None = None
    dropped: bool = False
    comparator: str | None = None
    log_number: int | None = None
    deleted: list[int] = field(default_factory=list)
    files: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    blobs: dict[int, int] = field(default_factory=dict)
    garbage: dict[int, int] = field(default_factory=dict)


def _apply(reader: _Reader, families: dict[int, Family], dropped: set[str]) -> None:
    edit = _Edit()
    while reader.at < len(reader.data):
        _read_tag(reader.varint(), reader, edit)
    if edit.dropped:
        if edit.family in families:
            dropped.add(families.pop(edit.family).name)
        return
    if edit.added is not None or edit.family not in families:
        families[edit.family] = Family("default" if edit.added is None else edit.added)
    family = families[edit.family]
    family.comparator = edit.comparator or family.comparator
    family.log_number = family.log_number if edit.log_number is None else edit.log_number
    for number in edit.deleted:
        family.files.pop(number, None)
    family.files.update(edit.files)
    family.blobs.update(edit.blobs)
    for number, count in edit.garbage.items():
        family.blobs[number] -= count


def _read_tag(tag: int, reader: _Reader, edit: _Edit) -> None:
    if tag in _NEW_FILES:
        _read_file(tag, reader, edit)
    elif tag == _DELETED_FILE:
        reader.varint()
        edit.deleted.append(reader.varint())
    elif tag in (_BLOB_ADDED, _BLOB_GARBAGE):
        _read_blob(tag, reader, edit)
    elif tag == _COMPARATOR:
        edit.comparator = reader.text().decode()
    elif tag == _LOG_NUMBER:
        edit.log_number = reader.varint()
    elif tag == _FAMILY:
        edit.family = reader.varint()
    elif tag == _FAMILY_ADDED:
        edit.added = reader.text().decode(errors="surrogateescape")  # RocksDB takes any bytes for a name
    elif tag == _FAMILY_DROPPED:
        edit.dropped = True
    else:
        _skip(tag, reader)


def _skip(tag: int, reader: _Reader) -> None:
    if tag in _NUMBERS:
        reader.varint()
    elif tag == _COMPACT_CURSOR:
        reader.varint()
        reader.text()
    elif tag & _IGNORABLE:
        reader.text()
    else:
        raise KeyError(f"unknown tag {tag}")


def _read_file(tag: int, reader: _Reader, edit: _Edit) -> None:
    level, number = reader.varint(), reader.varint()
    path_id = reader.varint() if tag == 102 else 0  # noqa: PLR2004 - kNewFile3
    size = reader.varint()
    reader.text()  # the smallest key
    reader.text()  # the largest
    if tag != 7:  # noqa: PLR2004 - kNewFile has no sequence numbers
        reader.varint()
        reader.varint()
    if tag == 103:  # noqa: PLR2004 - kNewFile4
        for each, content in reader.skip_fields(1):
            path_id = content[0] if each == _PATH_ID else path_id
    edit.files[number] = (level, size, path_id)


def _read_blob(tag: int, reader: _Reader, edit: _Edit) -> None:
    number, count, _size = reader.varint(), reader.varint(), reader.varint()
    if tag == _BLOB_ADDED:
        reader.text()  # the method of its checksum
        reader.text()  # the checksum
        edit.blobs[number] = count
    else:
        edit.garbage[number] = count
    for _ in reader.skip_fields(0):
        pass
