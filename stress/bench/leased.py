"""The column whose handles have leases.

Each handle is given its own. A database, or a process, that has leases by default makes every opener of the process
ask for them from then on, and the other columns are to show what it costs not to have any.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from stress.bench.columns import SOUGHT, Safe

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds, of which no round takes so many.
WARN, EXPIRE = 600.0, 3600.0


class Leased(Safe):
    """saferocks with handles that are overdue after ten minutes, and expire after an hour."""

    def batches(self, chunks: list[list[bytes]]) -> None:
        """Write the rows of each chunk as one batch."""
        db, value = self.db, self.value
        for keys in chunks:
            with db.write_batch(warn_after=WARN, expire_after=EXPIRE) as batch:
                for key in keys:
                    batch[key] = value

    def scan(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows."""
        with self.db.items(warn_after=WARN, expire_after=EXPIRE) as items:
            return consume(items)

    def scan_back(self, consume: Callable[[Any], Any]) -> Any:
        """Read all rows from the last to the first."""
        with self.db.items(True, warn_after=WARN, expire_after=EXPIRE) as items:
            return consume(items)

    def seeks(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a scan."""
        db, row = self.db, None
        for key in keys:
            with db.items(False, key, warn_after=WARN, expire_after=EXPIRE) as items:
                for row in islice(items, SOUGHT):  # noqa: B007 - the last is returned
                    pass
        return row

    def cursors(self, keys: list[bytes]) -> Any:
        """Read some rows from each key on, by a cursor."""
        db, row = self.db, None
        for key in keys:
            with db.iter(warn_after=WARN, expire_after=EXPIRE) as cursor:
                cursor.seek(key)
                for _ in range(SOUGHT):
                    if not cursor.valid():
                        break
                    row = cursor.key(), cursor.value()
                    cursor.next()
        return row

    def iterators(self, times: list[Any]) -> None:
        """Open an iterator so many times, and release it."""
        db = self.db
        for _ in times:
            with db.iter(warn_after=WARN, expire_after=EXPIRE):
                pass

    def snapshots(self, times: list[Any]) -> None:
        """Open a snapshot for point reads so many times, and release it."""
        db = self.db
        for _ in times:
            with db.snapshot(point_reads_only=True, warn_after=WARN, expire_after=EXPIRE):
                pass

    def states(self, times: list[Any]) -> None:
        """Open a snapshot that can be scanned so many times, and release it."""
        db = self.db
        for _ in times:
            with db.snapshot(warn_after=WARN, expire_after=EXPIRE):
                pass
