"""`saferocks doctor`: what is wrong with a database, who has it open, and what to do."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING

from saferocks import _checkup, _terminal
from saferocks._remedies import DAMAGE, LOSS, remedy_of
from saferocks._shadow import lacks_descriptors, open_unchanged
from saferocks._shadow_files import Manner
from saferocks._temporary import NoRoomError
from saferocks._text import printable, several
from saferocks.errors import BusyError, EngineError, NotSupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from saferocks._checkup import Finding


def run(options: argparse.Namespace) -> int:
    """Write all findings; 1 if one of them is a problem."""
    status = 0
    for finding in itertools.chain(_checkup.findings(options.path, options.db_path), _opening(options)):
        status = 1 if finding.level == "problem" else status
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        _terminal.verdict(finding.level, f"{finding.text}{remedy}")
    return status


def _opening(options: argparse.Namespace) -> Iterator[Finding]:
    """Open the database for reading, which is the last word on whether it can be."""
    try:
        count = _count_families(options, Manner.STRICT)
        yield _checkup.Finding("ok", f"it opens for reading, with {several(count, 'column family', 'column families')}")
    except (BusyError, NoRoomError, NotSupportedError):  # which are no fault of the database
        raise
    except OSError as error:
        remedy = "change its owner or mode" if isinstance(error, PermissionError) else ""
        yield _checkup.Finding("problem", f"it cannot be read: {printable(str(error))}", remedy)
    except EngineError as error:
        if lacks_descriptors(error):
            raise
        yield _not_open(options, error)


def _count_families(options: argparse.Namespace, manner: Manner) -> int:
    with open_unchanged(options.path, manner, elsewhere=options.db_path) as reading:
        return len(reading.families)


def _not_open(options: argparse.Namespace, error: EngineError) -> Finding:
    """Say that the database does not open, or that rows are lost by opening it."""
    text = printable(str(error).splitlines()[0])
    remedy = "" if "restore" in text else remedy_of(error)  # a text of our own says what to do
    remedy = LOSS if remedy == DAMAGE else remedy  # how much can be saved `verify` tells
    with suppress(EngineError):
        _count_families(options, Manner.USUAL)
        text = f"opening it leaves out, without a word, a part of its write-ahead log: {text}"
        first = "copy it before anybody opens it for writing"
        return _checkup.Finding("problem", text, "; ".join(filter(None, (first, remedy))))
    return _checkup.Finding("problem", f"it does not open: {text}", remedy)
