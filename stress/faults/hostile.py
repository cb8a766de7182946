"""A database that somebody else made: nothing of it is executed, whichever way it is read."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from random import Random
from typing import Any

import saferocks
from stress.faults import forged
from stress.faults.fault import Fault, Outcome, Round
from stress.faults.reading import SCANS

_MOST_TOLD = 5
#: What a pickle that is damaged, or refused, may raise.
_OF_LOADS = (pickle.UnpicklingError, EOFError, ValueError, LookupError)


class OnlyPlain(pickle.Unpickler):
    """Unpickles plain containers, and refuses whatever has to be looked up by name."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse it."""
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def restricted_loads(data: bytes) -> Any:
    """Decode a pickle of plain containers only."""
    return OnlyPlain(io.BytesIO(data)).load()


def stage(round_: Round) -> Outcome:
    """Forge a database that makes a directory if anything in it is executed, and read it in every way."""
    random = round_.random()
    path, marker = str(round_.directory / "db"), str(round_.directory / "executed")
    counts: Counter[str] = Counter()
    raw = forge(path, marker, random, counts)
    restricted = not raw and random.random() < 0.3
    counts["given a restricted loads"] = int(restricted)
    wrong: list[str] = []
    try:
        with saferocks.open(path, raw_mode=raw) as db:
            if restricted:
                db.set_loads(restricted_loads)
            wrong += _read(db, random, counts, restricted=restricted)
            counts["opened"] += 1
    except saferocks.EngineError:
        counts["refused at open or close"] += 1
    if os.path.lexists(marker):
        wrong.insert(0, "code in the database was executed")
    if saferocks.open_handles():
        wrong.append(f"handles are left open: {saferocks.open_handles()}")
    return Outcome(counts, tuple(wrong[:_MOST_TOLD]))


def forge(path: str, marker: str, random: Random, counts: Counter[str]) -> bool:
    """Make a hostile database, and return whether it is raw."""
    raw = random.random() < 0.4
    names = forged.families(random)
    forged.make(path, raw, names)
    if random.random() < 0.9:
        changes = forged.changes(random, raw, len(names), marker)
        forged.forge_log(path, changes)
        counts["forged rows"] += len(changes)
    if random.random() < 0.5:
        kind, lie = forged.config(random, marker)
        forged.write_config(path, lie)
        counts[f"config: {kind}"] += 1
    counts["raw" if raw else "typed"] += 1
    return raw


def _read(db: saferocks.Rdict, random: Random, counts: Counter[str], *, restricted: bool) -> list[str]:
    """Carry out every read; each gives something, or raises a typed error, or what `restricted_loads` raised."""
    wrong: list[str] = []
    for what, read in _reads(db, random):
        counts["reads"] += 1
        try:
            read()
        except saferocks.EngineError:
            counts["reads refused"] += 1
        except KeyError:
            counts["reads of missing keys"] += 1
        except BaseException as error:  # noqa: BLE001 - rocksdict's panics are no `Exception`
            if not (restricted and isinstance(error, _OF_LOADS)):
                wrong.append(f"{what} raised an untyped {type(error).__name__}: {error}")
            else:
                counts["reads that loads refused"] += 1
    return wrong


def _reads(db: saferocks.Rdict, random: Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Return every read there is, with its name."""
    names = db.column_families
    for name in names:
        yield from _reads_of(db.get_column_family(name), f"db[{name[:20]!r}]", random)
    with db.snapshot(column_families=[name for name in names if name != "default"]) as snapshot:
        for name in names:
            reader = snapshot if name == "default" else snapshot.get_column_family(name)
            yield from _reads_of(reader, f"snapshot[{name[:20]!r}]", random)


def _reads_of(reader: Any, what: str, random: Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    keys = _keys(reader)
    for key in keys:
        yield from _point_reads(reader, what, key)
    limits: list[dict[str, Any]] = [{}, {"prefix": b"k"}]
    limits += [{"from_key": key} for key in random.sample(keys, min(2, len(keys)))]
    limits += [{"lower_bound": key} for key in random.sample(keys, min(1, len(keys)))]
    for method, backwards, limit in product(SCANS, (False, True), limits):
        arguments = {**limit, "backwards": backwards}
        yield f"{what}.{method}({arguments})", partial(_list, getattr(reader, method), arguments)
    for backwards, part in product((False, True), ("key", "value", "columns")):
        yield f"{what}.iter() {part}", partial(_walk, reader, backwards, part)


def _point_reads(reader: Any, what: str, key: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield f"{what}.get", lambda: reader.get(key)
    yield f"{what}[...]", lambda: reader[key]
    yield f"in {what}", lambda: key in reader
    yield f"{what}.get_entity", lambda: reader.get_entity(key)
    if hasattr(reader, "key_may_exist"):
        yield f"{what}.key_may_exist", lambda: reader.key_may_exist(key, fetch=True)
        yield f"{what}.get([...])", lambda: reader.get([key])


def _keys(reader: Any) -> list[Any]:
    """Return the keys as far as they can be read; the reads themselves are judged elsewhere."""
    found: list[Any] = [b"plain", "missing" if not reader._raw else b"missing"]
    try:
        with reader.keys() as keys:
            for key in keys:
                found.append(key)
    except (saferocks.EngineError, *_OF_LOADS):
        pass
    return found


def _list(scan: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    with scan(**arguments) as rows:
        return list(rows)


def _walk(reader: Any, backwards: bool, part: str) -> None:
    """Walk a cursor over all rows, reading one part of each; the error of the last one that cannot be read."""
    failure: saferocks.EngineError | None = None
    with reader.iter() as cursor:
        (cursor.seek_to_last if backwards else cursor.seek_to_first)()
        while cursor.valid():
            try:
                getattr(cursor, part)()
            except saferocks.EngineError as error:
                failure = error
            (cursor.prev if backwards else cursor.next)()
    if failure is not None:
        raise failure


FAULT = Fault(
    name="hostile",
    summary="a database that somebody else made, with pickles and lies everywhere",
    rounds=300,
    stage=stage,
)
