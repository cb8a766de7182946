"""`saferocks verify`: reads every row of every column family, and so checks every checksum on the way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from saferocks import _manifest, _terminal
from saferocks._checkup import wrong_files
from saferocks._engine import DEFAULT_FAMILY
from saferocks._options import ReadOptions
from saferocks._remedies import DAMAGE, LOSS, remedy_of
from saferocks._shadow import lacks_descriptors, open_unchanged
from saferocks._shadow_files import Manner
from saferocks._text import printable, several
from saferocks.errors import BusyError, EngineError, NotSupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from saferocks._database import Rdict
    from saferocks._shadow import Reading

_EACH = 10_000  # rows between two looks at the clock
_FILE = re.compile(r"(\d+)\.sst")


def run(options: argparse.Namespace) -> int:
    """Read everything; 1 if any of it is damaged."""
    try:
        with open_unchanged(options.path, Manner.STRICT, elsewhere=options.db_path) as reading:
            return _conclude(_verify(reading), reading)
    except (BusyError, NotSupportedError):  # which is no damage
        raise
    except EngineError as error:
        if lacks_descriptors(error):
            raise
        _terminal.verdict("problem", f"it cannot be opened{_where(options.path, error)}: {_line(error)}")
        cause = error
    return _verify_what_opens(options.path, options.db_path, cause)


def _verify_what_opens(path: str, elsewhere: Sequence[str], cause: EngineError) -> int:
    """Read what can be read of a database that cannot be opened as it is, and name the files that are wrong."""
    try:
        with open_unchanged(path, Manner.TOLERANT, elsewhere=elsewhere) as reading:
            for finding in wrong_files(reading.families[DEFAULT_FAMILY].path()):
                _terminal.verdict(finding.level, finding.text)
            return _conclude(_verify(reading), reading, cause)
    except EngineError as error:
        _terminal.verdict("problem", f"nothing of it can be read: {_line(error)}")
        remedy = remedy_of(error)
        return _advise("nothing could be read", [LOSS if remedy == DAMAGE else remedy])


def _verify(reading: Reading) -> list[EngineError]:
    """Scan each column family to its end; returns what kept it from that, one for each that it could not."""
    damaged: list[EngineError] = []
    families = reading.families
    for number, (name, family) in enumerate(families.items(), 1):
        try:
            counted = _scan(f"{printable(name)} ({number} of {len(families)})", family)
        except _DamagedError as found:
            damaged.append(found.error)
            after = f"after {several(found.rows, 'row')}, the rest was not read"
            where, error = _where(reading.path, found.error), reading.in_place(found.error)
            _terminal.verdict("problem", f"{printable(name)}: damaged{where}, {after}: {_line(error)}")
        else:
            _terminal.verdict("ok", f"{printable(name)}: {several(counted, 'row')}")
    return damaged


class _DamagedError(Exception):
    """A scan ended early."""

    def __init__(self, rows: int, error: EngineError) -> None:
        super().__init__(rows, error)
        self.rows = rows
        self.error = error


def _scan(title: str, family: Rdict) -> int:
    """Read a column family, and return how many rows it has."""
    counted = 0
    estimate = family.property_int_value("rocksdb.estimate-num-keys") or 0
    try:
        with _terminal.progress(title, estimate) as show, family.keys(read_opt=_careful()) as keys:
            for counted, _ in enumerate(keys, 1):
                if counted % _EACH == 0:
                    show(counted)
    except EngineError as error:
        if lacks_descriptors(error):
            raise
        raise _DamagedError(counted, error) from error
    return counted


def _careful() -> ReadOptions:
    options = ReadOptions()
    options.set_verify_checksums(True)
    options.fill_cache(False)
    return options


def _line(error: EngineError) -> str:
    return str(error).splitlines()[0].encode("unicode_escape").decode("ascii")


def _where(path: str, error: EngineError) -> str:
    """Say which file it is, and of which column family, if RocksDB names one."""
    found = _FILE.search(str(error))
    if found is None:
        return ""
    try:
        files = {file.number: file for file in _manifest.read_manifest(path).files}
    except (OSError, EngineError):
        files = {}
    file = files.get(int(found[1]))
    if file is None:
        return f" in {found[0]}"
    return f" in {file.name} (level {file.level} of {printable(file.family)})"


def _conclude(damaged: list[EngineError], reading: Reading, cause: EngineError | None = None) -> int:
    """Say what has come of it; `cause` is what keeps the database from being opened as it is."""
    if cause is None and not damaged:
        _terminal.say()
        _terminal.say("all rows were read, and every checksum on the way was right")
        return 0
    remedies = [remedy_of(error) for error in (cause, *damaged) if error is not None]
    if not damaged:
        return _advise("every column family can be read to its end, but the database cannot be opened", remedies)
    families = several(len(reading.families), "column family", "column families")
    return _advise(f"{len(damaged)} of {families} damaged", remedies)


def _advise(found: str, remedies: Iterable[str]) -> int:
    """End with what to do, each remedy once."""
    _terminal.say()
    _terminal.say(": ".join(filter(None, (found, "; ".join(filter(None, dict.fromkeys(remedies)))))))
    return 1
