"""RocksDB's status texts, and the typed error for each."""

from __future__ import annotations

import re

from saferocks import errors
from saferocks.errors import EngineError

_STATUSES: tuple[tuple[str, int, type[EngineError]], ...] = (
    ("NotFound: ", 1, EngineError),
    ("Corruption: ", 2, errors.CorruptionError),
    ("Not implemented: ", 3, errors.NotSupportedError),
    ("Invalid argument: ", 4, errors.InvalidArgumentError),
    ("IO error: ", 5, errors.IOFailedError),
    ("Merge in progress: ", 6, EngineError),
    ("Result incomplete: ", 7, errors.IncompleteError),
    ("Shutdown in progress: ", 8, errors.ShutdownError),
    ("Operation timed out: ", 9, errors.TimedOutError),
    ("Operation aborted: ", 10, errors.AbortedError),
    ("Resource busy: ", 11, errors.BusyError),
    ("Operation expired: ", 12, EngineError),
    ("Operation failed. Try again.: ", 13, errors.TryAgainError),
    ("Compaction too large: ", 14, EngineError),
    ("Column family dropped: ", 15, errors.ColumnFamilyDroppedError),
)
# Texts that say more than their status does; the first that is found decides.
_REFINEMENTS: tuple[tuple[str, type[EngineError]], ...] = (
    ("lock hold by current process", errors.LockedError),
    ("While lock file", errors.LockedError),
    ("Failed to create lock file", errors.LockedError),  # as it is on Windows; what follows is in the user's language
    ("No space left on device", errors.NoSpaceError),
    ("operation in read only mode", errors.ReadOnlyError),
    ("operation in secondary mode", errors.ReadOnlyError),
    ("Column family not found", errors.ColumnFamilyNotFoundError),
    ("Column families not opened", errors.InvalidArgumentError),
    ("does not match existing comparator", errors.ModeMismatchError),
    ("must set raw_mode=", errors.ModeMismatchError),
    ("should have raw_mode=", errors.ModeMismatchError),
    ("Invalid column family: ", errors.ColumnFamilyNotFoundError),
    ("use `create_cf` to creat it", errors.ColumnFamilyNotFoundError),
    ("Cannot call this method without first", errors.InvalidArgumentError),
    ("(os error ", errors.IOFailedError),
)
_SUBCODES = (
    "No space left on device",
    "Stale file handle",
    "Memory limit reached",
    "No such file or directory",
    "Space limit reached",
    "Path not found",
)
_PATTERN_UNOPENED = re.compile(r"Column families not opened: (.*)")


def from_text(text: str) -> EngineError:
    """Turn an error text of RocksDB or rocksdict into the typed error that starts with that text."""
    code, kind = next(((c, k) for prefix, c, k in _STATUSES if text.startswith(prefix)), (None, EngineError))
    kind = next((refined for mark, refined in _REFINEMENTS if mark in text), kind)
    subcode = next((sub for sub in _SUBCODES if sub in text), None)
    error = kind(text, code=code, subcode=subcode)
    unopened = _PATTERN_UNOPENED.search(text)
    if unopened:
        errors.add_note(error, f"add {unopened[1]} to column_families=, or leave it out to open all of them")
    return error
