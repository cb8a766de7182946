"""What a round writes into a database, all of it decided by a seed, and each state that the database was in."""

from __future__ import annotations

import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import saferocks

Key = Any  # bytes in a raw database; bytes, str, int or float in a typed one
Columns = tuple[tuple[Any, Any], ...]
#: Rows by column family and key: the wide columns of each, of which a plain value is one.
Rows = dict[str, dict[Key, Columns]]

DEFAULT = "default"
_FAMILIES = (DEFAULT, "users", "events")
#: More than any plan takes; the kernel ends a writer that hangs, whoever waits for it.
_WRITER_SECONDS = 60
#: Databases that are not closed before their process ends; dropped, they would be.
_abandoned: list[saferocks.Rdict] = []


@dataclass(frozen=True)
class Write:
    """A change of one row.

    Attributes:
        family: Of which column family.
        key: Of which row.
        columns: What it becomes; None to delete it.
    """

    family: str
    key: Key
    columns: Columns | None

    @property
    def is_plain(self) -> bool:
        """Tell whether it is a value rather than wide columns."""
        return self.columns is not None and len(self.columns) == 1


@dataclass(frozen=True)
class Step:
    """What is done in one call.

    Attributes:
        what: `write`, `flush` or `compact`.
        writes: The changes, which happen all or none.
        family: Of which column family, but for writes.
    """

    what: str
    writes: tuple[Write, ...] = ()
    family: str = DEFAULT


@dataclass(frozen=True)
class Plan:
    """What is written into one database.

    Attributes:
        raw: Whether its keys and values are raw bytes.
        families: Its column families.
        steps: What is done, in order.
        closes: Whether it is closed in the end; if not, its process ends without.
        filters: Whether it has bloom filters.
    """

    raw: bool
    families: tuple[str, ...]
    steps: tuple[Step, ...]
    closes: bool
    filters: bool

    @property
    def writes(self) -> Iterator[tuple[Write, ...]]:
        """Return the changes, in the order and the groups in which they were issued."""
        return (step.writes for step in self.steps if step.what == "write")

    def keys(self, family: str) -> list[Key]:
        """Return all keys that a column family has ever had, in order."""
        found = {write.key for writes in self.writes for write in writes if write.family == family}
        return sorted(found, key=order)

    def rows(self, issued: int | None = None) -> Rows:
        """Return the rows after so many writes; after all of them if left out."""
        rows: Rows = {family: {} for family in self.families}
        for writes in list(self.writes)[:issued]:
            for write in writes:
                if write.columns is None:
                    rows[write.family].pop(write.key, None)
                else:
                    rows[write.family][write.key] = write.columns
        return rows


def order(key: Key) -> tuple[int, Any]:
    """Return what sorts as RocksDB sorts a key: by its type, then by itself."""
    if isinstance(key, float):
        return 3, struct.pack(">d", key)
    rank = {bytes: 0, str: 1, int: 2}[type(key)]
    return rank, key


def default_column(raw: bool) -> Any:
    """Return the name of the column that a plain value is."""
    return b"" if raw else ""


def value_of(columns: Columns, raw: bool) -> Any:
    """Return what a row of these columns is as a plain value; empty if none of them is the default one."""
    return next((value for name, value in columns if name == default_column(raw)), default_column(raw))


def plan(random: Random) -> Plan:
    """Decide what is written: several files on several levels, and changes that no file has yet."""
    raw = random.random() < 0.6
    families = _FAMILIES[: random.randint(1, 3)]
    steps: list[Step] = []
    for _ in range(random.randint(2, 4)):
        steps += _writes(random, raw, families, random.randint(10, 60))
        steps += [Step("flush", family=family) for family in families if random.random() < 0.8]
        steps += [Step("compact", family=family) for family in families if random.random() < 0.2]
    steps += _writes(random, raw, families, random.randint(0, 60))
    return Plan(raw, families, tuple(steps), closes=random.random() < 0.4, filters=random.random() < 0.4)


def _writes(random: Random, raw: bool, families: tuple[str, ...], count: int) -> list[Step]:
    steps: list[Step] = []
    for _ in range(count):
        size = random.choice((1, 1, 1, 2, 8))
        writes = tuple(_write(random, raw, random.choice(families), wide=size == 1) for _ in range(size))
        steps.append(Step("write", writes))
    return steps


def _write(random: Random, raw: bool, family: str, wide: bool) -> Write:
    key = _key(random.randrange(120), raw)
    kind = random.random()
    if kind < 0.1:
        return Write(family, key, None)
    if wide and kind < 0.25:
        names = sorted(random.sample(["a", "b", "colour", "zone"], random.randint(2, 4)))
        return Write(family, key, tuple((name.encode() if raw else name, _value(random, raw)) for name in names))
    return Write(family, key, ((default_column(raw), _value(random, raw)),))


def _key(number: int, raw: bool) -> Key:
    if raw:
        return b"k%04d" % number
    return (f"k{number:04}", number, b"k%04d" % number, number + 0.5)[number % 4]


def _value(random: Random, raw: bool) -> Any:
    content = random.randbytes(random.choice((0, 5, 40, 200, 900)))
    if raw:
        return content
    return random.choice((content, content.hex(), random.randrange(1 << 60), random.random(), True))


def write(plan: Plan, path: str) -> None:
    """Carry out a plan in a child process, so that nothing of it is left in this one.

    Raises:
        RuntimeError: If it could not be carried out; the reason is on stderr.
    """
    if wait_for(fork(lambda: _write_here(plan, path))) != 0:
        raise RuntimeError(f"the database to be damaged could not be written at {path!r}")


def fork(work: Callable[[], None]) -> int:
    """Do something in a child process, which ends with status 0 as soon as it is done, closing nothing."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_WRITER_SECONDS)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(child: int) -> int:
    """Wait for a child process and return its exit status; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _write_here(plan: Plan, path: str) -> None:
    options = saferocks.Options(raw_mode=plan.raw)
    if plan.filters:
        tables = saferocks.BlockBasedOptions()
        tables.set_bloom_filter(10, False)
        options.set_block_based_table_factory(tables)
    database = saferocks.open(path, options=options)
    db = database.__enter__()
    families = {DEFAULT: db, **{name: db.create_column_family(name, options) for name in plan.families[1:]}}
    for step in plan.steps:
        _carry_out(db, families, step)
    if plan.closes:
        db.close()
    else:
        _abandoned.extend(families.values())


def _carry_out(db: saferocks.Rdict, families: dict[str, saferocks.Rdict], step: Step) -> None:
    """Carry out a step. Families are kept: rocksdict flushes one whenever its last handle is let go."""
    if step.what == "flush":
        families[step.family].flush()
    elif step.what == "compact":
        families[step.family].compact_range(None, None)
    elif len(step.writes) == 1:
        put(families[step.writes[0].family], step.writes[0])
    else:
        with db.write_batch() as batch:
            for each in step.writes:
                handle = db.get_column_family_handle(each.family)
                if each.columns is None:
                    batch.delete(each.key, handle)
                else:
                    batch.put(each.key, each.columns[0][1], handle)


def put(family: saferocks.Rdict, write: Write) -> None:
    """Change one row."""
    if write.columns is None:
        family.delete(write.key)
    elif write.is_plain:
        family[write.key] = write.columns[0][1]
    else:
        family.put_entity(write.key, [name for name, _ in write.columns], [value for _, value in write.columns])
