"""How the pytest plugin words what has leaked."""

from __future__ import annotations

import linecache
import os
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from saferocks.errors import Leak

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Frames from here on outwards are the test runner's.
_RUNNERS = (f"{os.sep}_pytest{os.sep}", f"{os.sep}pluggy{os.sep}", f"{os.sep}unittest{os.sep}")
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = f"{os.sep}site-packages{os.sep}"
_MOST_NAMED = 3


@dataclass(frozen=True)
class Blame:
    """A leak, and whose it is.

    Attributes:
        who: A test's id, or the words for a fixture or a session.
        leak: What escaped.
    """

    who: str
    leak: Leak

    def as_dict(self) -> dict[str, Any]:
        """Return it in types that a test report can carry to another process."""
        return {"who": self.who, **asdict(self.leak)}

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Blame:
        """Return what `as_dict` was given."""
        leak = {name: value for name, value in fields.items() if name != "who"}
        return Blame(fields["who"], Leak(**{**leak, "stack": tuple(leak["stack"])}))


def text_for(whose: str, blames: Iterable[Blame], failures: Iterable[str] = ()) -> str:
    """Say what somebody has leaked, and what went wrong with releasing it."""
    leaks = [blame.leak for blame in blames]
    return "\n".join([heading(whose, leaks), *map(paragraph, leaks), *(f"  {failure}" for failure in failures)])


def texts(blames: Sequence[Blame], failures: Iterable[str] = ()) -> list[str]:
    """Return a text for each of those who have leaked."""
    names = dict.fromkeys(blame.who for blame in blames)
    found = [text_for(name, [blame for blame in blames if blame.who == name]) for name in names]
    return [*found, *(f"  {failure}" for failure in failures)]


def heading(whose: str, leaks: Sequence[Leak]) -> str:
    """Say how much somebody has leaked."""
    total = sum(leak.count for leak in leaks)
    return f"saferocks: {whose} leaked {total} handle{'' if total == 1 else 's'}"


def paragraph(leak: Leak) -> str:
    """Say what escaped, from which line, how, and what to write instead."""
    return "\n".join(_lines(leak))


def _lines(leak: Leak) -> Iterator[str]:
    yield f"  {replace(leak, opened_at=shortened(leak.opened_at)).headline}"
    source = source_line(leak.opened_at)
    if source:
        yield f"      {source}"
    yield f"    write: {leak.remedy}"
    if leak.database:
        yield f"    database: {leak.database}"
    callers = _own_frames(leak.stack)
    if len(callers) > 1:
        yield "    opened by:"
        yield from (f"      {shortened(frame)}" for frame in callers)


def _own_frames(stack: Iterable[str]) -> list[str]:
    """Return the frames of a stack up to the test runner's, without what starts threads and tasks."""
    found = list(takewhile(lambda frame: not any(runner in frame for runner in _RUNNERS), stack))
    while found and found[-1].startswith(_LIBRARY) and _PACKAGES not in found[-1]:
        found.pop()
    return found


def shortened(place: str) -> str:
    """Write a place relative to the current directory, if it is below it."""
    here = os.getcwd() + os.sep
    return place[len(here) :] if place.startswith(here) else place


def source_line(opened_at: str) -> str:
    """Return the text of a line given as `file:line`, or nothing if it cannot be had."""
    file, _, line = opened_at.rpartition(":")
    return linecache.getline(file, int(line)).strip() if file and line.isdigit() else ""


def summary(blames: Iterable[Blame]) -> Iterator[str]:
    """Group leaks by kind and opening line, most handles first."""
    groups: dict[tuple[str, str], list[Blame]] = {}
    for blame in blames:
        groups.setdefault((blame.leak.opened_at, blame.leak.kind), []).append(blame)
    for (opened_at, kind), group in sorted(groups.items(), key=lambda item: -_count(item[1])):
        yield f"{shortened(opened_at)}: {_count(group)} {kind} handle{'' if _count(group) == 1 else 's'}"
        source = source_line(opened_at)
        if source:
            yield f"      {source}"
        yield f"    write: {group[0].leak.remedy}"
        yield f"    leaked by: {_names([blame.who for blame in group])}"


def _count(group: Iterable[Blame]) -> int:
    return sum(blame.leak.count for blame in group)


def _names(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = len(unique) - _MOST_NAMED
    return ", ".join(unique[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
