"""What to do about an error that reading a database has met: not each of them is damage."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from saferocks.errors import CorruptionError

if TYPE_CHECKING:
    from saferocks.errors import EngineError

DAMAGE = (
    "restore a backup; or save what can be read with `saferocks scan --damaged --json`, "
    "or try saferocks.Rdict.repair on a copy"
)
#: Where nothing can be read, so that there is nothing to save.
LOSS = "restore a backup, or try saferocks.Rdict.repair on a copy"

_BY_TEXT = (
    (
        re.compile(r"merge_operator"),
        "it was written with a merge operator that rocksdict lacks; read it with the program that wrote it",
    ),
    (
        re.compile(r"Could not find option"),
        "its OPTIONS file is of another version of RocksDB; open it with the program that wrote it",
    ),
    (
        re.compile(r"RocksDBOptionsParser|RocksDB Option ?file", re.IGNORECASE),
        "its newest OPTIONS file is damaged; restore that, or move it elsewhere: whoever opens the database next gives "
        "the options, and RocksDB writes them anew",
    ),
    (
        re.compile(r"Input/output error"),
        "its disk cannot be read there, of which the kernel's log tells; copy what can be read to another disk first",
    ),
    (re.compile(r"Permission denied"), "change its owner or mode"),
    (re.compile(r"No such file"), DAMAGE),
)


def remedy_of(error: EngineError) -> str:
    """Return what to do about an error, or nothing where nothing can be said, or its own text does."""
    text = str(error)
    known = next((remedy for pattern, remedy in _BY_TEXT if pattern.search(text)), None)
    return known if known is not None else DAMAGE if isinstance(error, CorruptionError) else ""
