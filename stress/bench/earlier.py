"""An earlier benchmark, read back from its file, and what has become worse since."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

from stress.bench.record import FORMAT, Record, Row
from stress.errors import UsageError

#: A figure is worse if it has grown by more than this part, and the quartiles of both do not touch.
TOLERANCE = 0.1
_REMEDY = "give a file that `python -m stress bench --json FILE` has written"


@dataclass(frozen=True)
class Change:
    """A figure, now and then.

    Attributes:
        old: The earlier row.
        new: The row of now.
    """

    old: Row
    new: Row

    @property
    def is_worse(self) -> bool:
        """Whether it has grown by more than two runs of the same code differ."""
        grown = self.new.figure - self.old.figure
        return self.new.low > self.old.high and grown > TOLERANCE * abs(self.old.figure)


class BenchFileError(UsageError):
    """A file that was to be an earlier benchmark and is none; the text is one line that says what would be right."""


def load(path: str) -> Record:
    """Load what an earlier benchmark has written.

    Args:
        path: The file.

    Raises:
        BenchFileError: If it is missing, cannot be read, is damaged, of another version or no benchmark.
    """
    if os.path.isdir(path):
        raise BenchFileError(f"{path!r} is a directory; {_REMEDY}")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise BenchFileError(f"there is no file {path!r}; {_REMEDY}") from None
    except (OSError, ValueError) as error:
        raise BenchFileError(f"cannot read {path!r} ({error}); {_REMEDY}") from None
    try:
        found = msgspec.json.decode(content, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BenchFileError(f"{path!r} is no benchmark ({error}); {_REMEDY}") from None
    if found.format != FORMAT:
        raise BenchFileError(f"{path!r} has format {found.format}, and this version reads {FORMAT}; run it again")
    return found


def changes(old: Record, new: Record) -> list[Change]:
    """Return the figures that both have, in the order of the new one."""
    known = {row.name: row for row in old.figures}
    pairs = [(known[row.name], row) for row in new.figures if row.name in known]
    return [Change(before, now) for before, now in pairs if before.unit == now.unit]


def notes(old: Record, new: Record) -> list[str]:
    """Return what a reader of the comparison has to know: what differs besides the code."""
    found = [
        f"{name} was {before!r} and is {now!r}"
        for name, before, now in (
            ("rows", old.rows, new.rows),
            ("rounds", old.rounds, new.rounds),
            ("cpu", old.machine.get("cpu"), new.machine.get("cpu")),
            ("cores", old.machine.get("cores"), new.machine.get("cores")),
        )
        if before != now
    ]
    names = sorted(old.versions.keys() | new.versions.keys())
    pairs = [(name, old.versions.get(name, "none"), new.versions.get(name, "none")) for name in names]
    return found + [f"{name} was {before} and is {now}" for name, before, now in pairs if before != now]
