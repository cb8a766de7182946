"""Other stores, where they are installed (the extra `bench`): plyvel, lmdb, and the Cython binding of RocksDB.

Each is used as its own documentation does: lmdb without syncing, as the others do not sync their logs, and with a
transaction for each read or write that stands alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from itertools import islice
from typing import TYPE_CHECKING, Any

from stress.bench.columns import SOUGHT, Column

if TYPE_CHECKING:
    from collections.abc import Callable

_MAP_BYTES = 64 << 30


def installed() -> dict[str, type[Column]]:
    """Return the columns whose packages are installed, by the names of their modules."""
    return {name: column for name, column in _OTHERS.items() if importlib.util.find_spec(name) is not None}


class Plyvel(Column):
    """LevelDB."""

    def open(self) -> Any:
        """Open a database with plyvel's own settings."""
        db = importlib.import_module("plyvel").DB(self.path, create_if_missing=True)
        self.stack.callback(db.close)
        return db

    def settle(self) -> None:
        """Compact everything."""
        self.db.compact_range()

    def writes(self, keys: list[bytes]) -> None:
        """Write a row for each key."""
        db, value = self.db, self.value
        for key in keys:
            db.put(key, value)

    def deletes(self, keys: list[bytes]) -> None:
        """Delete each key."""
        db = self.db
        for key in keys:
            db.delete(key)

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk as one batch."""
        db, value = self.db, self.value
        for keys in chunks:
            with db.write_batch() as batch:
                for key in keys:
                    batch.put(key, value)

    def reads(self, keys: list[bytes]) -> Any:
        """Read each key."""
        db, value = self.db, None
        for key in keys:
            value = db.get(key)
        return value

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        with self.db.iterator() as rows:
            return consume(rows)

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        with self.db.iterator(reverse=True) as rows:
            return consume(rows)

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on."""
        db, row = self.db, None
        for key in keys:
            with db.iterator(start=key) as rows:
                for row in islice(rows, SOUGHT):  # noqa: B007 - the last is returned
                    pass
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open an iterator so many times, and close it."""
        db = self.db
        for _ in times:
            with db.raw_iterator():
                pass

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot so many times, and close it."""
        db = self.db
        for _ in times:
            with db.snapshot():
                pass


class Lmdb(Column):
    """LMDB, a tree of pages in mapped memory."""

    def open(self) -> Any:
        """Open an environment that does not sync."""
        module = importlib.import_module("lmdb")
        db = module.open(self.path, map_size=_MAP_BYTES, sync=False, metasync=False)
        self.stack.callback(db.close)
        return db

    def writes(self, keys: list[bytes]) -> None:
        """Write a row for each key."""
        db, value = self.db, self.value
        for key in keys:
            with db.begin(write=True) as transaction:
                transaction.put(key, value)

    def deletes(self, keys: list[bytes]) -> None:
        """Delete each key."""
        db = self.db
        for key in keys:
            with db.begin(write=True) as transaction:
                transaction.delete(key)

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk in one transaction."""
        db, value = self.db, self.value
        for keys in chunks:
            with db.begin(write=True) as transaction:
                for key in keys:
                    transaction.put(key, value)

    def reads(self, keys: list[bytes]) -> Any:
        """Read each key."""
        db, value = self.db, None
        for key in keys:
            with db.begin() as transaction:
                value = transaction.get(key)
        return value

    def many(self, chunks: list[list[bytes]]) -> Any:
        """Read the keys of each chunk at once."""
        db, values = self.db, None
        for keys in chunks:
            with db.begin() as transaction:
                values = dict(transaction.cursor().getmulti(keys))
        return None if values is None else [values.get(key) for key in chunks[-1]]

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        with self.db.begin() as transaction:
            return consume(transaction.cursor())

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        with self.db.begin() as transaction:
            return consume(transaction.cursor().iterprev())

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on."""
        db, row = self.db, None
        for key in keys:
            with db.begin() as transaction:
                cursor = transaction.cursor()
                if cursor.set_range(key):
                    for row in islice(cursor.iternext(), SOUGHT):  # noqa: B007 - the last is returned
                        pass
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open a transaction with a cursor so many times, and end it."""
        db = self.db
        for _ in times:
            with db.begin() as transaction:
                transaction.cursor()

    def snapshots(self, times: list[Any]) -> None:
        """Open a read transaction so many times, and end it."""
        db = self.db
        for _ in times:
            with db.begin():
                pass


class Cython(Column):
    """RocksDB through the Cython binding that faust-streaming-rocksdb has."""

    def open(self) -> Any:
        """Open a database with the binding's own settings."""
        self._module = importlib.import_module("rocksdb")
        db = self._module.DB(self.path, self._module.Options(create_if_missing=True))
        self.stack.callback(db.close)
        return db

    def settle(self) -> None:
        """Compact everything."""
        self.db.compact_range()

    def writes(self, keys: list[bytes]) -> None:
        """Write a row for each key."""
        db, value = self.db, self.value
        for key in keys:
            db.put(key, value)

    def deletes(self, keys: list[bytes]) -> None:
        """Delete each key."""
        db = self.db
        for key in keys:
            db.delete(key)

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk as one batch."""
        db, value = self.db, self.value
        for keys in chunks:
            batch = self._module.WriteBatch()
            for key in keys:
                batch.put(key, value)
            db.write(batch)

    def reads(self, keys: list[bytes]) -> Any:
        """Read each key."""
        db, value = self.db, None
        for key in keys:
            value = db.get(key)
        return value

    def many(self, chunks: list[list[bytes]]) -> Any:
        """Read the keys of each chunk at once."""
        db, values = self.db, None
        for keys in chunks:
            values = db.multi_get(keys)
        return None if values is None else [values[key] for key in chunks[-1]]

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        rows = self.db.iteritems()
        rows.seek_to_first()
        return consume(rows)

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        rows = self.db.iteritems()
        rows.seek_to_last()
        return consume(reversed(rows))

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on."""
        db, row = self.db, None
        for key in keys:
            rows = db.iteritems()
            rows.seek(key)
            for row in islice(rows, SOUGHT):  # noqa: B007 - the last is returned
                pass
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open an iterator so many times, and let go of it."""
        db = self.db
        for _ in times:
            db.iteritems()

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot so many times, and let go of it."""
        db = self.db
        for _ in times:
            db.snapshot()


_OTHERS: dict[str, type[Column]] = {"plyvel": Plyvel, "lmdb": Lmdb, "rocksdb": Cython}
