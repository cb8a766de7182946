"""Every way of reading a database, compared with what it must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stress.faults.crash_stream import PREFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from random import Random

    import saferocks
    from saferocks import SnapshotFamily

    Reader = saferocks.Rdict | saferocks.Snapshot | SnapshotFamily

_MISSING = b"none/such"


def read_differences(db: saferocks.Rdict, state: Mapping[str, Mapping[bytes, bytes]], random: Random) -> Iterator[str]:
    """Say where reading differs from a state: points and scans of each column family, live and in a snapshot.

    Args:
        db: The database; nobody writes to it.
        state: The rows of each column family.
        random: Chooses the bounds.
    """
    names = sorted(state)
    for name in names:
        yield from _reader_differences(f"{name!r}", db.get_column_family(name), state[name], random)
        yield from _many_differences(f"{name!r}", db.get_column_family(name), state[name])
    with db.snapshot(column_families=[name for name in names if name != "default"]) as snapshot:
        for name in names:
            family = snapshot if name == "default" else snapshot.get_column_family(name)
            yield from _reader_differences(f"{name!r} in a snapshot", family, state[name], random)


def _reader_differences(title: str, reader: Reader, rows: Mapping[bytes, bytes], random: Random) -> Iterator[str]:
    due = sorted(rows.items())
    lower, upper = sorted((_some_key(random), _some_key(random)))
    prefix, start = random.choice(PREFIXES), _some_key(random)
    within = [(key, value) for key, value in due if lower <= key < upper]
    with_prefix = [(key, value) for key, value in due if key.startswith(prefix)]
    scans: tuple[tuple[str, Callable[[], AbstractContextManager[Any]], list[Any]], ...] = (
        ("items", reader.items, due),
        ("items backwards", lambda: reader.items(backwards=True), due[::-1]),
        ("keys", reader.keys, [key for key, _ in due]),
        ("values", reader.values, [value for _, value in due]),
        ("bounded items", lambda: reader.items(lower_bound=lower, upper_bound=upper), within),
        (
            "bounded items backwards",
            lambda: reader.items(backwards=True, lower_bound=lower, upper_bound=upper),
            within[::-1],
        ),
        ("items of a prefix", lambda: reader.items(prefix=prefix), with_prefix),
        ("items of a prefix backwards", lambda: reader.items(backwards=True, prefix=prefix), with_prefix[::-1]),
        ("items from a key", lambda: reader.items(from_key=start), [row for row in due if row[0] >= start]),
    )
    for what, scan, expected in scans:
        with scan() as rows_found:
            found = list(rows_found)
        if found != expected:
            yield f"{what} of {title}: {len(found)} rows came out where {len(expected)} are due, or others"
    for key in (*rows, _MISSING):
        if reader.get(key) != rows.get(key) or (key in reader) != (key in rows):
            yield f"row {key!r} of {title}: a point read gives {reader.get(key)!r}, due is {rows.get(key)!r}"


def _many_differences(title: str, reader: saferocks.Rdict, rows: Mapping[bytes, bytes]) -> Iterator[str]:
    keys = [*rows, _MISSING]
    if reader.get(keys) != [rows.get(key) for key in keys]:
        yield f"a multi-get of {title} gives other rows than are due"


def _some_key(random: Random) -> bytes:
    return random.choice(PREFIXES) + b"%04d" % random.randrange(130)
