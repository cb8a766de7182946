"""Databases made by somebody else, byte for byte: what no program of ours would ever write."""

from __future__ import annotations

import json
import os
import pickle
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

import rocksdict

#: RocksDB's types of changes in a write batch: a value, wide columns, an operand of a merge; each of a column family.
VALUE, ENTITY, MERGE = 0x05, 0x17, 0x06
_SEQUENCE = 1 << 20
_BLOCK_BYTES = 32768
_CONFIG = "rocksdict-config.json"
#: The first byte of a typed value tells its type; 6 is a pickle, and beyond it there is none.
TYPES = range(9)
_FAMILIES = ("users", "../../etc/passwd", "\u2603" * 40, "cposix\nsystem\n(S'true'\ntR.", " ", "default ", "x" * 2000)


class _Trap:
    """Makes a directory when it is unpickled, as hostile data would."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def trap(marker: str, protocol: int) -> bytes:
    """Return a pickle that makes a directory when it is loaded."""
    return pickle.dumps(_Trap(marker), protocol)


@dataclass(frozen=True)
class Change:
    """A change in a forged log.

    Attributes:
        kind: `VALUE`, `ENTITY` or `MERGE`.
        family: The number of its column family.
        key: The bytes of the key, as they are on disk.
        content: Those of the value.
    """

    kind: int
    family: int
    key: bytes
    content: bytes


def varint(number: int) -> bytes:
    """Return a number as RocksDB writes it."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def prefixed(content: bytes) -> bytes:
    """Return bytes with their length before them."""
    return varint(len(content)) + content


def entity(columns: dict[bytes, bytes]) -> bytes:
    """Return wide columns as RocksDB writes them: version 1, names with the sizes of the values, values."""
    ordered = sorted(columns.items())
    index = b"".join(prefixed(name) + varint(len(value)) for name, value in ordered)
    return varint(1) + varint(len(ordered)) + index + b"".join(value for _, value in ordered)


def make(path: str, raw: bool, families: tuple[str, ...]) -> None:
    """Make an empty database with bare rocksdict, and close it."""
    db = rocksdict.Rdict(path, rocksdict.Options(raw_mode=raw))
    for name in families:
        db.create_column_family(name, rocksdict.Options(raw_mode=raw))
    db[b"plain"] = b"plain"
    db.close()


def forge_log(path: str, changes: list[Change]) -> None:
    """Write a log of changes, each a batch, for the next opening to replay."""
    file = os.path.join(path, max(name for name in os.listdir(path) if name.endswith(".log")))
    content = bytearray()
    for number, change in enumerate(changes):
        body = struct.pack("<QI", _SEQUENCE + number, 1) + bytes((change.kind,)) + varint(change.family)
        content += _records(body + prefixed(change.key) + prefixed(change.content), len(content))
    with open(file, "wb") as opened:
        opened.write(content)


def _records(body: bytes, at: int) -> bytes:
    """Return a record, in as many parts as the blocks of a log ask for."""
    found, begun = bytearray(), False
    while True:
        room = _BLOCK_BYTES - (at + len(found)) % _BLOCK_BYTES
        if room < 7:
            found += bytes(room)
            continue
        part, body = body[: room - 7], body[room - 7 :]
        kind = {(False, True): 1, (False, False): 2, (True, False): 3, (True, True): 4}[begun, not body]
        found += struct.pack("<IHB", _checksum(bytes((kind,)) + part), len(part), kind) + part
        begun = True
        if not body:
            return bytes(found)


def _checksum(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def config(random: Random, marker: str) -> tuple[str, bytes | None]:
    """Return a `rocksdict-config.json` that lies, and the kind of its lie; None for one that is missing."""
    deep = random.choice((100, 3000, 100_000))
    honest = {"raw_mode": random.random() < 0.5, "prefix_extractors": {}}
    lies: dict[str, Any] = {
        "none": None,
        "another mode": json.dumps(honest),
        "extractor": json.dumps(
            {**honest, "prefix_extractors": {"default": {"Fixed": random.choice((0, 3, 1 << 62))}}}
        ),
        "extractor of nobody": json.dumps({**honest, "prefix_extractors": {"nobody": {"MaxLen": 4}}}),
        "extractor of no kind": json.dumps({**honest, "prefix_extractors": {"default": {"Custom": "os.system"}}}),
        "negative": json.dumps({**honest, "prefix_extractors": {"default": {"Fixed": -1}}}),
        "wrong types": json.dumps({"raw_mode": "yes", "prefix_extractors": [1, 2]}),
        "deep": "[" * deep + "]" * deep,
        "deep inside": '{"raw_mode":true,"prefix_extractors":{"a":' + '{"a":' * deep + "1" + "}" * deep + "}}",
        "huge": json.dumps({**honest, "filling": "x" * (4 << 20)}),
        "no JSON": "raw_mode = true",
        "empty": "",
        "pickle": trap(marker, 2),
        "bytes": random.randbytes(200),
        "number": '{"raw_mode":true,"prefix_extractors":{"default":{"Fixed":1e400}}}',
        "twice": '{"raw_mode":true,"raw_mode":false,"prefix_extractors":{}}',
    }
    kind = random.choice(list(lies))
    lie = lies[kind]
    return kind, lie.encode() if isinstance(lie, str) else lie


def write_config(path: str, content: bytes | None) -> None:
    """Put a `rocksdict-config.json` in the place of the one that is there."""
    file = os.path.join(path, _CONFIG)
    if content is None:
        os.unlink(file)
        return
    with open(file, "wb") as opened:
        opened.write(content)


def families(random: Random) -> tuple[str, ...]:
    """Return names of column families, such as nobody would choose."""
    return tuple(random.sample(_FAMILIES, random.randint(0, 3)))


def changes(random: Random, raw: bool, families: int, marker: str) -> list[Change]:
    """Return hostile rows: every type of value, with content that fits it and content that does not."""
    return [_change(random, raw, random.randint(0, families), number, marker) for number in range(30)]


def _change(random: Random, raw: bool, family: int, number: int, marker: str) -> Change:
    key = b"k%03d" % number if raw else random.choice((b"\x01", b"\x02")) + b"k%03d" % number
    if raw and random.random() < 0.3:
        key = trap(marker, 2) + key
    elif random.random() < 0.1:
        key = bytes((random.randrange(12),)) + random.choice((b"", b"\xff\xfe", trap(marker, 0), bytes(8)))
    kind = random.choices((VALUE, ENTITY, MERGE), (70, 27, 3))[0]
    if kind != ENTITY:
        return Change(kind, family, key, content(random, marker))
    if random.random() < 0.1:
        return Change(
            kind, family, key, random.choice((b"", b"\x01", b"\x01\xff\xff\xff\x7f", content(random, marker)))
        )
    return Change(kind, family, key, entity({content(random, marker): content(random, marker) for _ in range(3)}))


def content(random: Random, marker: str) -> bytes:
    """Return the bytes of one hostile value: a type, and what may or may not be of that type."""
    inside = random.choice(
        (
            *(trap(marker, protocol) for protocol in (0, 2, 4, 5)),
            b"",
            b"\xff\xfe\x00",
            random.randbytes(8),
            random.randbytes(300),
            b"5",
            b"plain",
        )
    )
    return random.choice((b"\x06", bytes((random.choice(TYPES),)), b"\xff", b"")) + inside
