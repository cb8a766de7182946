"""RocksDB's reader of log files (`log::Reader`), as far as it concerns where it ends (D24).

It is here to foretell what RocksDB 9.8 does with a file that is not in order, and follows it in all that this
depends on: the reader reports what it finds damaged, but goes on until it has the next record, and only then do
recovery and the MANIFEST's readers see the report, and stop. Where that cannot be foretold it finds nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK_BYTES = 32768
#: Checksum, length, type.
_HEADER = struct.Struct("<IHB")
HEADER_BYTES = _HEADER.size
#: The types of records in a log that was written over an older one.
RECYCLED = frozenset({5, 6, 7, 8, 11})
_FULL, _FIRST, _MIDDLE, _LAST, _COMPRESSION, _TIMESTAMPS = 1, 2, 3, 4, 9, 10
_DATA = frozenset({_FULL, _FIRST, _MIDDLE, _LAST})


@dataclass(frozen=True)
class Damage:
    """A place in a log file, and whether RocksDB would stay there for ever or pass over what comes after it."""

    at: int
    endless: bool


class LogReader:
    """Reads one file from its beginning, as `log::Reader` does.

    `_has_record` is its `first_record_read_`, `_in_pieces` its `in_fragmented_record`. `_reported` says that the
    current call of `ReadRecord` has reported damage: the record that it returns is the last one read.
    """

    def __init__(self, *, is_manifest: bool, is_repair: bool = False) -> None:
        """Begin a file.

        Args:
            is_manifest: Whether its last block counts. What a write-ahead log loses there is its end, which recovery
                may drop; what a MANIFEST loses are files.
            is_repair: Whether it is read by a repair, which passes over whatever it can, and stops at no report.
        """
        self._is_repair = is_repair
        self._is_manifest = is_manifest
        self._has_record = self._in_pieces = self._reported = self._is_over = False

    def read(self, blocks: Iterable[bytes]) -> Damage | None:
        """Return the first damage that RocksDB would not report, or None; only the last block may be a short one."""
        offset = 0
        for block in blocks:
            damage = self._read_block(block)
            if damage is not None:
                return Damage(offset + damage.at, damage.endless)
            if self._is_over:
                return None
            offset += len(block)
        return None

    def _read_block(self, block: bytes) -> Damage | None:
        for at, kind, end in _records(block):
            if kind in RECYCLED:
                self._is_over = True  # if no record came before, all of the file may be of that sort: nothing is known
                return Damage(at, endless=True) if self._has_record else None
            if end > len(block) and len(block) < BLOCK_BYTES:
                self._is_over = True
                is_lost = (
                    self._is_manifest and not self._is_repair and not self._reported and is_length_damaged(block, at)
                )
                return Damage(at, endless=False) if is_lost else None
            if (kind, end) == (0, at + HEADER_BYTES):
                self._drop(reported=self._in_pieces)
                counts = not (self._reported or self._is_repair) and (self._is_manifest or len(block) == BLOCK_BYTES)
                return Damage(at, endless=False) if counts and is_any_whole_after(block, at) else None
            if not is_whole(block, at, end):
                self._drop(reported=True)
                return None
            self._take(kind)
            if self._is_over:
                return None
        return None

    def _stops(self) -> bool:
        return self._reported and not self._is_repair

    def _drop(self, *, reported: bool) -> None:
        self._in_pieces = False
        self._reported = self._reported or reported

    def _take(self, kind: int) -> None:
        """Go on after a record with the right checksum."""
        if kind == _FULL or (kind == _LAST and self._in_pieces):
            self._reported = self._reported or (kind == _FULL and self._in_pieces)
            self._has_record, self._in_pieces, self._is_over = True, False, self._stops()
        elif kind == _FIRST:
            self._reported, self._in_pieces = self._reported or self._in_pieces, True
        elif kind in (_MIDDLE, _LAST):
            self._reported = self._reported or not self._in_pieces
        elif kind == _COMPRESSION:
            self._reported = self._reported or self._has_record
        elif kind != _TIMESTAMPS:
            self._drop(reported=True)


def is_any_whole_after(block: bytes, place: int) -> bool:
    """Tell whether a record with the right checksum begins anywhere behind a place, and leads to others or the end."""
    for start in range(place + 1, len(block) - HEADER_BYTES):
        if 0 < block[start + 6] <= _LAST and _leads_on(block, start):
            _, _, end = next(_records(block, start))
            if is_whole(block, start, end):
                return True
    return False


def is_length_damaged(block: bytes, place: int) -> bool:
    """Tell whether the header of a record that reaches beyond its file was damaged.

    If it was not, the record was torn, and what it holds may look like records. But the checksum is of all but the
    length, so that it tells where a whole record ended; and none is longer than its block, or in a MANIFEST of
    another type than data.
    """
    wanted, crc = _unmasked(block, place) ^ 0xFFFFFFFF, 0xFFFFFFFF
    for end in range(place + HEADER_BYTES, len(block) + 1):
        crc = _CRC32C[(crc ^ block[end - 1]) & 0xFF] ^ (crc >> 8)
        if crc == wanted and _is_end(block, end):
            return True
    _, kind, end = next(_records(block, place))
    return (kind not in _DATA or end > BLOCK_BYTES) and is_any_whole_after(block, place)


def _is_end(block: bytes, at: int) -> bool:
    """Tell whether a record may end here: at the end, or where another begins."""
    following = next(_records(block, at), None)
    return not any(block[at:]) if following is None else is_whole(block, following[0], following[2])


def _leads_on(block: bytes, start: int) -> bool:
    """Tell whether headers of data lead from a place to where a block may end: this sorts out what looks like one."""
    for at, kind, end in _records(block, start):
        if (kind, end) == (0, at + HEADER_BYTES):
            return at > start
        if kind not in _DATA or end > len(block):
            return False
    return True


def _records(block: bytes, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield place, type and end of the records in a block, as far as one leads to the next."""
    at, last = start, len(block) - HEADER_BYTES
    while at <= last:
        _, length, kind = _HEADER.unpack_from(block, at)
        end = at + HEADER_BYTES + length
        yield at, kind, end
        at = end


def is_whole(block: bytes, at: int, end: int) -> bool:
    """Tell whether a record has the checksum that it says: CRC32C of its type and content."""
    return end <= len(block) and _crc32c(block[at + HEADER_BYTES - 1 : end]) == _unmasked(block, at)


def _crc32c(content: bytes) -> int:
    crc, table = 0xFFFFFFFF, _CRC32C
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _unmasked(block: bytes, at: int) -> int:
    """Return the checksum in a header; it is stored rotated and with a constant added."""
    stored: int = _HEADER.unpack_from(block, at)[0]
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(_crc32c_of(byte) for byte in range(256))
