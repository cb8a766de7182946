"""One damage to one file of a database."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

#: The kinds of files, each by how the names of its files begin or end.
KINDS = ("SST", "WAL", "MANIFEST", "CURRENT", "OPTIONS", "rocksdict-config.json", "IDENTITY")
#: Files that hold rows are damaged more often than those that hold a line.
_WEIGHTS = (30, 30, 15, 5, 10, 5, 3)
WAYS = ("bit flip", "truncation", "zeroed range", "garbage range", "removed file")
_LONGEST_RANGE = 256


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        kind: To which kind of file.
        way: How.
        file: To which file.
        where: Where in it, in words.
    """

    kind: str
    way: str
    file: str
    where: str

    def __str__(self) -> str:
        return f"{self.way} of {self.file} {self.where}".rstrip()


def kind_of(name: str) -> str | None:
    """Tell the kind of a file, or None for one that holds nothing of the database."""
    if name.endswith(".sst"):
        return "SST"
    if name.endswith(".log"):
        return "WAL"
    return next((kind for kind in KINDS[2:] if name.partition("-")[0] == kind or name == kind), None)


def damage(path: str, random: Random) -> Damage:
    """Damage one file of a closed database, chosen with its place and manner by the random numbers."""
    files = {kind: [name for name in sorted(os.listdir(path)) if kind_of(name) == kind] for kind in KINDS}
    there = [kind for kind in KINDS if any(os.path.getsize(os.path.join(path, name)) for name in files[kind])]
    kind = random.choices(there, [_WEIGHTS[KINDS.index(kind)] for kind in there])[0]
    name = random.choice([name for name in files[kind] if os.path.getsize(os.path.join(path, name))])
    return damage_file(path, name, random.choice(WAYS), random)


def damage_file(path: str, name: str, way: str, random: Random) -> Damage:
    """Damage one file in one way; it is another one afterwards in any case."""
    file = os.path.join(path, name)
    kind = kind_of(name) or name
    if way == "removed file":
        os.unlink(file)
        return Damage(kind, way, name, "")
    with open(file, "rb") as opened:
        before = opened.read()
    after, where = before, ""
    while after == before:
        after, where = _damaged(before, way, random)
        way = way if after != before else "bit flip"  # zeros were zeroed
    with open(file, "wb") as opened:
        opened.write(after)
    return Damage(kind, way, name, where)


def _damaged(before: bytes, way: str, random: Random) -> tuple[bytes, str]:
    at = random.randrange(len(before))
    if way == "truncation":
        return before[:at], f"to {at} of {len(before)} bytes"
    content = bytearray(before)
    if way == "bit flip":
        bit = random.randrange(8)
        content[at] ^= 1 << bit
        return bytes(content), f"at byte {at} of {len(before)}, bit {bit}"
    end = min(len(before), at + random.randint(1, _LONGEST_RANGE))
    content[at:end] = bytes(end - at) if way == "zeroed range" else random.randbytes(end - at)
    return bytes(content), f"from byte {at} to {end} of {len(before)}"
