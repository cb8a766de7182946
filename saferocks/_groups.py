"""The open handles of the process by the line that opened them; one copy of the registry tells all.

Nothing here takes a lock or calls RocksDB, so that a signal handler may ask.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from saferocks._registry import Record

_SHOWN_LABELS = 3
#: Characters of a label that are shown to a reader: a program may label a handle with a whole query.
LABEL_WIDTH = 80


@dataclass(frozen=True)
class Group:
    """Open handles of one kind and database that one line has opened.

    Attributes:
        kind: What they are.
        database: The path of their database, or None for free-standing handles.
        count: How many there are.
        oldest: Seconds for which the oldest has been open.
        opened_at: The line of the opener's call, as `file:line`.
        stack: Its frames, innermost first; one alone unless `trace="stack"`.
        labels: Some of the labels that they were given.
    """

    kind: str
    database: str | None
    count: int
    oldest: float
    opened_at: str
    stack: tuple[str, ...]
    labels: tuple[str, ...]


def groups(records: Iterable[Record]) -> list[Group]:
    """Group records by kind, database and stack: most handles first, and of as many the oldest."""
    now = time.monotonic()
    alike: dict[object, list[Record]] = {}
    for record in records:  # oldest first
        frames = record.stack or (record.site,)
        # The identity of a code object: equal ones may be of different files.
        key = (record.kind, id(record.owner), tuple((id(code), lasti) for code, lasti in frames))
        alike.setdefault(key, []).append(record)
    # Two calls on one line differ until they are written out, which is done once for each.
    members: dict[object, list[Record]] = {}
    for some in alike.values():
        members.setdefault((some[0].kind, id(some[0].owner), _stack(some[0])), []).extend(some)
    found = [_group(some, now) for some in members.values()]
    return sorted(found, key=lambda group: (-group.count, -group.oldest))


def _stack(record: Record) -> tuple[str, ...]:
    return tuple(map(_registry.format_frame, record.stack or (record.site,)))


def _group(members: list[Record], now: float) -> Group:
    first = members[0]
    labels = dict.fromkeys(record.label for record in members if record.label is not None)
    return Group(
        kind=first.kind,
        database=first.owner.name,
        count=len(members),
        oldest=max(0.0, now - min(record.opened for record in members)),
        opened_at=_registry.format_site(first.site),
        stack=_stack(first),
        labels=tuple(labels)[:_SHOWN_LABELS],
    )
