"""The write-ahead log and the MANIFEST, looked through for what RocksDB would read for ever, or pass over (D24).

Both are series of records in blocks of 32 KiB. Where one record says that it was written over an older
log, and the first of its file does not, RocksDB's reader finds it bad, does not step over it, and tries
again: for ever, and with the interpreter lock. A single flipped bit is enough.

Where the length of a record was damaged so that it ends after its file, or was zeroed with its type, the
reader takes that for the end of what was written. Records that are whole behind that place tell of the damage.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

from saferocks.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_FILE = re.compile(r"MANIFEST-\d+$|\d+\.log$")
_BLOCK_BYTES = 32768
#: Checksum, length, type.
_HEADER = struct.Struct("<IHB")
#: The types of records in a log that was written over an older one; these also hold the number of the log.
_RECYCLED = frozenset({5, 6, 7, 8, 11})
_LOG_NUMBER_BYTES = 4


def check(path: str) -> None:
    """Refuse a database that RocksDB would read for ever, which changes nothing of it.

    Only files in its own directory are looked at: a write-ahead log elsewhere (`Options.set_wal_dir`) is not.

    Raises:
        CorruptionError: Naming the file and the place in it.
    """
    for name in sorted(os.listdir(path)):
        if not _LOG_FILE.match(name):
            continue
        try:
            _check_file(path, name)
        except OSError:  # a live primary may just have removed it; what cannot be read RocksDB tells of
            continue


def _check_file(path: str, name: str) -> None:
    """Refuse one log file; OSError if it cannot be read."""
    file = os.path.join(path, name)
    at = endless_at(file)
    if at is not None:
        raise CorruptionError(
            f"Corruption: {name} of {path!r} is damaged at byte {at}, where RocksDB would try to read on for ever; "
            f"restore it, or cut it off there on a copy: RocksDB keeps what comes before",
            code=2,
        )
    at = passed_over_at(file, last_block=name.startswith("MANIFEST-"))
    if at is not None:
        raise CorruptionError(
            f"Corruption: {name} of {path!r} is damaged at byte {at}, and RocksDB would silently pass over what "
            f"comes after it; restore it, or cut it off there on a copy to do without that",
            code=2,
        )


def endless_at(file: str) -> int | None:
    """Return where in a log file RocksDB's reader would stay, or None if it comes to the end."""
    with open(file, "rb") as opened:
        first = opened.read(_BLOCK_BYTES)
        start = next(_records(first), None)
        if start is None or start[1] in _RECYCLED:
            return None
        block, offset = first, 0
        while block:
            for at, kind, _ in _records(block):
                if kind in _RECYCLED and _is_reached(block, at) and _is_whole(first, start):
                    return offset + at
            offset += len(block)
            block = opened.read(_BLOCK_BYTES)
    return None


def passed_over_at(file: str, *, last_block: bool) -> int | None:
    """Return where a log file is damaged so that RocksDB leaves out whole records, or None.

    Args:
        file: The log file.
        last_block: Whether that counts in its last block too. What a write-ahead log loses there is its end, which
            recovery may drop; what a MANIFEST loses are files.
    """
    with open(file, "rb") as opened:
        offset, block = 0, opened.read(_BLOCK_BYTES)
        while block:
            after = opened.read(_BLOCK_BYTES)
            at = _end_of(block, torn=not after) if after or last_block else None
            if at is not None and _is_reached(block, at) and _is_any_whole_after(block, at):
                return offset + at
            offset, block = offset + len(block), after
    return None


def _end_of(block: bytes, *, torn: bool) -> int | None:
    """Return where RocksDB takes a block to end, though it goes on: at zeros, or at a record that the file tears."""
    at = 0
    for place, _, end in _records(block):
        if end > len(block):  # elsewhere than at the end of its file RocksDB reports that itself
            return place if torn else None
        at = end
    return at if at + _HEADER.size <= len(block) else None


def _is_any_whole_after(block: bytes, place: int) -> bool:
    """Tell whether a record with the right checksum begins anywhere behind a place."""
    for at in range(place + 1, len(block) - _HEADER.size + 1):
        _, length, kind = _HEADER.unpack_from(block, at)
        end = at + _HEADER.size + length
        if 0 < kind < min(_RECYCLED) and length and end <= len(block) and _is_whole(block, (at, kind, end)):
            return True
    return False


def _records(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield place, type and end of the records in a block, as far as one leads to the next."""
    at, last = 0, len(block) - _HEADER.size
    while at <= last:
        _, length, kind = _HEADER.unpack_from(block, at)
        if kind == 0 and length == 0:  # the rest was never written
            return
        end = at + _HEADER.size + length + (_LOG_NUMBER_BYTES if kind in _RECYCLED else 0)
        yield at, kind, end
        at = end


def _is_reached(block: bytes, place: int) -> bool:
    """Tell whether RocksDB gets to a record: after one with a wrong checksum it goes on with the next block."""
    return all(_is_whole(block, record) for record in _records(block) if record[0] < place)


def _is_whole(block: bytes, record: tuple[int, int, int]) -> bool:
    """Tell whether a record has the checksum that it says: CRC32C of its type and content, rotated."""
    at, _, end = record
    crc = 0xFFFFFFFF
    for byte in block[at + _HEADER.size - 1 : end]:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    (stored,) = struct.unpack_from("<I", block, at)
    return end <= len(block) and stored == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(_crc32c_of(byte) for byte in range(256))
