"""The write-ahead log and the MANIFEST, looked through for what RocksDB would read for ever, or pass over (D24).

Both are series of records in blocks of 32 KiB. Where one record says that it was written over an older
log, and records before it in its file do not, RocksDB's reader finds it bad, does not step over it, and tries
again: for ever, and with the interpreter lock. A single flipped bit is enough.

Where the length and type of a record were zeroed, or in a MANIFEST its length reaches beyond the file, the reader
takes that for the end of what was written. Records that are whole behind that place tell of the damage.

A healthy file costs one walk from header to header, with no checksum: of a log of 64 MB with rows of 100 bytes
about a sixth of the time that RocksDB then takes to recover it. Only where a header is out of the ordinary is the file
read as RocksDB would (`_log_reader`), checksums and all, and its verdict alone refuses.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

from saferocks._interrupts import passing_over
from saferocks._log_reader import BLOCK_BYTES, HEADER_BYTES, RECYCLED, Damage, LogReader
from saferocks.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_LOG = re.compile(r"\d+\.log$")
_MANIFEST = re.compile(rb"(MANIFEST-\d+)\n?$")
_LENGTH_AND_TYPE = struct.Struct("<HB")
#: Data in one piece or in several, and the notes on compression and on timestamps.
_ORDINARY = frozenset({1, 2, 3, 4, 9, 10})


def check(path: str) -> None:
    """Refuse a database that RocksDB would read for ever, or in which it would pass over whole records.

    It changes nothing. Only what RocksDB reads in the directory itself is looked at: the MANIFEST that CURRENT names,
    and the logs; a write-ahead log elsewhere (`Options.set_wal_dir`) is not.

    Raises:
        CorruptionError: Naming the file, the place in it, and the remedy.
    """
    manifest = _manifest_of(path)
    if manifest is not None and (damage := _look(path, manifest, is_manifest=True)) is not None:
        raise _refusal(path, manifest, damage, "with saferocks.Rdict.repair on a copy rebuild it from the other files")
    for name in _logs_of(path):
        if (damage := _look(path, name, is_manifest=False)) is not None:
            remedy = f"on a copy cut it off there (os.truncate(file, {damage.at})), which keeps what comes before"
            if not damage.endless:
                remedy += ", or try saferocks.Rdict.repair, which keeps what RocksDB can read"
            raise _refusal(path, name, damage, remedy)


def check_for_repair(path: str) -> None:
    """Refuse to repair a database with a log that RocksDB would read for ever.

    What it would pass over is what a repair is for, and an old MANIFEST it puts aside unread.

    Raises:
        CorruptionError: Naming the file, the place in it, and the remedy.
    """
    for name in _logs_of(path):
        damage = _look(path, name, is_manifest=False, is_repair=True)
        if damage is not None:
            remedy = f"on a copy cut it off there (os.truncate(file, {damage.at})), which keeps what comes before"
            raise _refusal(path, name, damage, remedy)


def damage_in(file: str, *, is_manifest: bool, is_repair: bool = False) -> Damage | None:
    """Return what RocksDB would come to grief at in a log file, or None.

    It looks no further than the file went when it was opened: a live primary may be writing it.
    """
    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if _is_ordinary(_blocks(opened, size), is_manifest=is_manifest):
            return None
        opened.seek(0)
        return LogReader(is_manifest=is_manifest, is_repair=is_repair).read(_blocks(opened, size))


def _look(path: str, name: str, *, is_manifest: bool, is_repair: bool = False) -> Damage | None:
    with passing_over(
        OSError, path=path
    ):  # a live primary may just have removed it; what cannot be read RocksDB tells of
        return damage_in(os.path.join(path, name), is_manifest=is_manifest, is_repair=is_repair)
    return None


def _refusal(path: str, name: str, damage: Damage, remedy: str) -> CorruptionError:
    what = (
        "where RocksDB would try to read on for ever"
        if damage.endless
        else "and RocksDB would silently pass over what comes after it"
    )
    return CorruptionError(
        f"Corruption: {name} of {path!r} is damaged at byte {damage.at}, {what}; restore it, or {remedy}", code=2
    )


def _manifest_of(path: str) -> str | None:
    """Return the name of the MANIFEST that RocksDB reads; older ones may lie beside it."""
    named = None
    with passing_over(OSError, path=path), open(os.path.join(path, "CURRENT"), "rb") as current:
        named = _MANIFEST.match(current.read(256))
    return named[1].decode() if named else None


def _logs_of(path: str) -> list[str]:
    """Return the names of the write-ahead logs in the order in which RocksDB reads them."""
    return sorted((name for name in os.listdir(path) if _LOG.match(name)), key=lambda name: int(name[:-4]))


def _blocks(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the blocks of the first `size` bytes: only the last may be shorter than a block."""
    while size > 0:
        block = opened.read(min(BLOCK_BYTES, size))
        if block:
            yield block
        if len(block) < BLOCK_BYTES:
            return
        size -= BLOCK_BYTES


def _is_ordinary(blocks: Iterator[bytes], *, is_manifest: bool) -> bool:
    """Tell whether RocksDB can be left to read these blocks: no header in them is one that it does not report."""
    unpack, ordinary = _LENGTH_AND_TYPE.unpack_from, _ORDINARY
    for block in blocks:
        # This loop is most of the time that the look takes, so it is no function; `at` is where a header's length is.
        at, last = 4, len(block) - HEADER_BYTES + 4
        while at <= last:
            length, kind = unpack(block, at)
            if kind not in ordinary:
                break
            at += length + HEADER_BYTES
        if at == last + HEADER_BYTES or not _is_suspect(block, at - 4, is_manifest=is_manifest):
            continue
        return False
    return True


def _is_suspect(block: bytes, at: int, *, is_manifest: bool) -> bool:
    """Tell whether a block must be read as RocksDB would, from where its headers lead no further."""
    is_last = len(block) < BLOCK_BYTES
    if at > len(block):  # of a record that is longer than its block RocksDB tells; at the end of a file it is torn
        return is_manifest and is_last
    if at + HEADER_BYTES > len(block):
        return False
    length, kind = _LENGTH_AND_TYPE.unpack_from(block, at + 4)
    if kind in RECYCLED:
        return True
    if (length, kind) == (0, 0):
        return (is_manifest or not is_last) and block.count(0, at) < len(block) - at
    return is_manifest and is_last and at + HEADER_BYTES + length > len(block)
