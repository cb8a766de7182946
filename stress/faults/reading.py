"""Every way to read a database, each compared with what it must give."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from random import Random
from typing import Any

import saferocks
from stress.faults.written import Columns, Key, order, value_of

saferocks.open  # loads all of it, once, rather than in each of the rounds that are forked from this process

SCANS = ("items", "keys", "values", "columns", "entities")
_PROPERTIES = ("rocksdb.stats", "rocksdb.sstables", "rocksdb.levelstats", "rocksdb.aggregated-table-properties")
_NUMBERS = ("rocksdb.estimate-num-keys", "rocksdb.num-live-versions", "rocksdb.size-all-mem-tables")
_SHOWN = 160


@dataclass
class Findings:
    """What came of reads.

    Attributes:
        right: How many gave what they had to.
        refused: How many raised a typed error instead, by its name.
        wrong: What the others did, a sentence each.
    """

    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def compare(self, what: str, read: Callable[[], Any], expected: Any) -> None:
        """Carry out a read that gives its answer as a whole."""
        try:
            found = read()
        except saferocks.EngineError as error:
            self.refused[type(error).__name__] += 1
        except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
            self._untyped(what, error)
        else:
            self._note(what, found, expected)

    def compare_rows(self, what: str, scope: Callable[[], Any], expected: Sequence[Any]) -> None:
        """Carry out a scan; one that raises a typed error may give the first of the rows before it."""
        found: list[Any] = []
        try:
            with scope() as rows:
                for row in rows:
                    found.append(row)
        except saferocks.EngineError as error:
            self.refused[type(error).__name__] += 1
            if found != expected[: len(found)]:
                self.wrong.append(f"{what} gave wrong rows before it raised {error}")
        except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
            self._untyped(what, error)
        else:
            self._note(what, found, list(expected))

    def _untyped(self, what: str, error: BaseException) -> None:
        self.wrong.append(f"{what} raised an untyped {type(error).__name__}: {error}")

    def _note(self, what: str, found: Any, expected: Any) -> None:
        if found == expected:
            self.right += 1
        elif isinstance(found, list) and isinstance(expected, list):
            at = next(
                (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                min(len(found), len(expected)),
            )
            theirs = f"{_short(found[at : at + 1])} instead of {_short(expected[at : at + 1])}"
            self.wrong.append(f"{what} gave {len(found)} rows instead of {len(expected)}; row {at} is {theirs}")
        else:
            self.wrong.append(f"{what} gave {_short(found)} instead of {_short(expected)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@dataclass(frozen=True)
class Expected:
    """What a column family holds.

    Attributes:
        raw: Whether as raw bytes.
        rows: Its rows.
        keys: Keys to ask for, whether it has them or not, in order.
    """

    raw: bool
    rows: dict[Key, Columns]
    keys: list[Key]

    def as_(self, method: str, key: Key) -> Any:
        """Return a row as one of the scans gives it."""
        columns = self.rows[key]
        return {
            "items": (key, value_of(columns, self.raw)),
            "keys": key,
            "values": value_of(columns, self.raw),
            "columns": list(columns),
            "entities": (key, list(columns)),
        }[method]

    def value(self, key: Key) -> Any:
        """Return the value of a key, or None."""
        return value_of(self.rows[key], self.raw) if key in self.rows else None

    def entity(self, key: Key) -> Any:
        """Return the columns of a key, or None."""
        return list(self.rows[key]) if key in self.rows else None


def read_points(findings: Findings, reader: Any, expected: Expected, what: str) -> None:
    """Ask a database, a column family or a snapshot for each key, in each way that it has."""
    for key in expected.keys:
        _read_key(findings, reader, expected, what, key)
    if hasattr(reader, "key_may_exist"):  # snapshots have no multi-get
        values = [expected.value(key) for key in expected.keys]
        findings.compare(f"{what}.get([...])", lambda: reader.get(list(expected.keys)), values)


def _read_key(findings: Findings, reader: Any, expected: Expected, what: str, key: Key) -> None:
    value, there = expected.value(key), key in expected.rows
    findings.compare(f"{what}.get({key!r})", lambda: reader.get(key), value)
    findings.compare(f"{what}[{key!r}]", lambda: _item(reader, key), value)
    findings.compare(f"{key!r} in {what}", lambda: key in reader, there)
    findings.compare(f"{what}.get_entity({key!r})", lambda: reader.get_entity(key), expected.entity(key))
    if hasattr(reader, "key_may_exist"):  # it may say so of a key that is not there
        findings.compare(f"{what}.key_may_exist({key!r})", lambda: bool(reader.key_may_exist(key)) or not there, True)


def _item(reader: Any, key: Key) -> Any:
    try:
        return reader[key]
    except KeyError:
        return None


def read_scans(findings: Findings, reader: Any, expected: Expected, what: str, random: Random) -> None:
    """Scan to the end in each way: complete, bounded, prefixed, from a key, in either direction."""
    keys = sorted(expected.rows, key=order)
    for limits, chosen in _limits(expected, keys, random):
        for method, backwards in product(SCANS, (False, True)):
            rows = [expected.as_(method, key) for key in (chosen[::-1] if backwards else chosen)]
            arguments = {**limits, "backwards": backwards}
            scan = partial(getattr(reader, method), **arguments)
            findings.compare_rows(f"{what}.{method}({_in_words(arguments)})", scan, rows)
    _read_from(findings, reader, expected, keys, what, random)


def _limits(expected: Expected, keys: list[Key], random: Random) -> list[tuple[dict[str, Any], list[Key]]]:
    """Return arguments of scans, and the keys that are within."""
    low, high = sorted(random.sample(expected.keys, 2), key=order) if len(expected.keys) > 1 else (None, None)
    found: list[tuple[dict[str, Any], list[Key]]] = [({}, keys)]
    if low is not None:
        within = [key for key in keys if order(low) <= order(key) < order(high)]
        found.append(({"lower_bound": low, "upper_bound": high}, within))
    prefix: Any = b"k00" if expected.raw or random.random() < 0.5 else "k00"
    found.append(({"prefix": prefix}, [key for key in keys if type(key) is type(prefix) and key.startswith(prefix)]))
    return found


def _in_words(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _read_from(findings: Findings, reader: Any, expected: Expected, keys: list[Key], what: str, random: Random) -> None:
    """Scan from a key on, inclusive, in either direction."""
    places = [order(key) for key in keys]
    for start in random.sample(expected.keys, min(2, len(expected.keys))):
        onwards = keys[bisect_left(places, order(start)) :]
        before = keys[: bisect_right(places, order(start))][::-1]
        for backwards, chosen in ((False, onwards), (True, before)):
            findings.compare_rows(
                f"{what}.items({backwards}, {start!r})",
                partial(reader.items, backwards, start),
                [expected.as_("items", key) for key in chosen],
            )


def read_cursors(findings: Findings, reader: Any, expected: Expected, what: str, random: Random) -> None:
    """Walk a cursor from either end to the other, and seek keys that are there and such that are not."""
    keys = sorted(expected.rows, key=order)
    rows = [(key, value_of(expected.rows[key], expected.raw), list(expected.rows[key])) for key in keys]
    findings.compare_rows(f"{what}.iter() forwards", lambda: _Walk(reader, False), rows)
    findings.compare_rows(f"{what}.iter() backwards", lambda: _Walk(reader, True), rows[::-1])
    places = [order(key) for key in keys]
    for key in random.sample(expected.keys, min(20, len(expected.keys))):
        after, before = bisect_left(places, order(key)), bisect_right(places, order(key))
        findings.compare(f"{what}.iter().seek({key!r})", partial(_sought, reader, "seek", key), keys[after : after + 1])
        findings.compare(
            f"{what}.iter().seek_for_prev({key!r})",
            partial(_sought, reader, "seek_for_prev", key),
            keys[max(0, before - 1) : before],
        )


class _Walk:
    """The rows of a cursor, walked as RocksDB's manual shows."""

    def __init__(self, reader: Any, backwards: bool) -> None:
        self._scope = reader.iter()
        self._backwards = backwards

    def __enter__(self) -> Any:
        return self._rows(self._scope.__enter__())

    def __exit__(self, *error: Any) -> None:
        self._scope.__exit__(*error)

    def _rows(self, cursor: Any) -> Any:
        (cursor.seek_to_last if self._backwards else cursor.seek_to_first)()
        while cursor.valid():
            yield cursor.key(), cursor.value(), cursor.columns()
            (cursor.prev if self._backwards else cursor.next)()
        cursor.status()


def _sought(reader: Any, method: str, key: Key) -> list[Key]:
    with reader.iter() as cursor:
        getattr(cursor, method)(key)
        found = [cursor.key()] if cursor.valid() else []
        cursor.status()
        return found


def read_properties(findings: Findings, db: saferocks.Rdict, family: Any, what: str) -> None:
    """Ask for properties, of which nothing is known but that they do not fail otherwise than typed."""
    findings.compare(f"{what}.property_value()", lambda: [family.property_value(name) for name in _PROPERTIES][4:], [])
    numbers = [True] * len(_NUMBERS)
    findings.compare(
        f"{what}.property_int_value()",
        lambda: [(family.property_int_value(name) or 0) >= 0 for name in _NUMBERS],
        numbers,
    )
    findings.compare(f"{what}.live_files()", lambda: isinstance(family.live_files(), list), True)
    findings.compare("memory()", lambda: db.memory().memtables >= 0, True)
    findings.compare("audit()", lambda: db.audit() is not None, True)


def read_everything(
    findings: Findings, db: saferocks.Rdict, expected: dict[str, Expected], random: Random, *, snapshots: bool
) -> None:
    """Read a database in every way that there is."""
    for name, rows in expected.items():
        family = db.get_column_family(name)
        _read_all(findings, family, rows, f"db[{name}]", random)
        read_properties(findings, db, family, name)
    if not snapshots:
        return
    others = [name for name in expected if name != "default"]
    try:
        with db.snapshot(column_families=others) as snapshot:
            for name, rows in expected.items():
                reader = snapshot if name == "default" else snapshot.get_column_family(name)
                _read_all(findings, reader, rows, f"snapshot[{name}]", random)
    except saferocks.EngineError as error:
        findings.refused[type(error).__name__] += 1


def _read_all(findings: Findings, reader: Any, rows: Expected, what: str, random: Random) -> None:
    read_points(findings, reader, rows, what)
    read_scans(findings, reader, rows, what, random)
    read_cursors(findings, reader, rows, what, random)
