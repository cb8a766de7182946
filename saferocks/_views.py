"""Fixed views: native objects that are proved to see one and the same state of the database.

Equal sequence numbers before and after prove that no write came in between. Needed because the
scans of a native snapshot read live data (D1), and native scans do not say why they ended (D4).
What changes without a new sequence number is counted besides: an ingestion of files that overlap nothing, and with
such files in its primary a secondary's catch-up.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from saferocks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable

#: How often a view is taken anew because a writer came in between, before the caller hears of it.
VIEW_ATTEMPTS = 1000

#: RocksDB's number of what a column family consists of. It reads it under the lock under which it changes that.
_VERSION = "rocksdb.current-super-version-number"


class Changes:
    """Changes of what a database shows that need not have a sequence number.

    Whoever makes one first says so in `under_way`, and in the end sets `last` before taking it back; whoever opens a
    view looks at the two the other way round. So of a change in the midst of the openings one of them tells.

    Attributes:
        under_way: Those that are being made.
        last: An object of its own for the last one.
    """

    __slots__ = ("last", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[object, None] = {}
        self.last = object()

    def make(self, change: Callable[[], Any]) -> None:
        """Make a change."""
        this = object()
        try:
            self.under_way[this] = None
            change()
            self._end(this)
        except BaseException:  # it failed, or Ctrl-C: left under way, it would make every opening slow
            self._end(this)
            raise

    def _end(self, this: object) -> None:
        self.last = this
        self.under_way.pop(this, None)


def open_scan(rdict: Any, changes: Changes, method: str, backwards: bool, start: Any, read_opt: Any) -> tuple[Any, Any]:
    """Open a fast scan and a plain cursor that see the same state (D4).

    `items` and its like never say why they ended; a plain cursor over the same state can. Equal
    sequence numbers around both openings prove that no write came in between.
    """
    scan, cursor = getattr(rdict, method), rdict.iter
    sequence = rdict.latest_sequence_number
    last, before = changes.last, sequence()
    view = scan(backwards, start, read_opt), cursor(read_opt)
    if sequence() == before and not changes.under_way and changes.last is last:
        return view
    del view  # before the next is opened: it would pin what that does, and more
    return _settled("scan", (rdict,), partial(_open_both, scan, cursor, backwards, start, read_opt))  # type: ignore[no-any-return]


def _open_both(scan: Any, cursor: Any, backwards: bool, start: Any, read_opt: Any) -> tuple[Any, Any]:
    return scan(backwards, start, read_opt), cursor(read_opt)


def open_snapshot(
    families: tuple[Any, ...], changes: Changes, cursor_options: list[Any] | None
) -> tuple[tuple[Any, Any], ...]:
    """Open native snapshots, and cursors pinned to the same state, for several column families (D1).

    The scans of a native snapshot read live data; an open cursor is a fixed view.

    Args:
        families: The native column families.
        changes: Those of their database.
        cursor_options: Read options of the cursor of each; None for snapshots without cursors.
    """
    sequence = families[0].latest_sequence_number
    last, before = changes.last, sequence()
    views = _open_all(families, cursor_options)
    if sequence() == before and not changes.under_way and changes.last is last:
        return views
    del views
    return _settled("snapshot", families, partial(_open_all, families, cursor_options))  # type: ignore[no-any-return]


def _open_all(families: tuple[Any, ...], cursor_options: list[Any] | None) -> tuple[tuple[Any, Any], ...]:
    snapshots = [family.snapshot() for family in families]
    cursors = [family.iter(each) for family, each in zip(families, cursor_options or (), strict=False)]
    return tuple(zip(snapshots, cursors or [None] * len(families), strict=True))


def _settled(what: str, families: tuple[Any, ...], open_views: Callable[[], Any]) -> Any:
    """Open views until nothing changes meanwhile, by RocksDB's own numbers, which take as long as the openings."""
    for _ in range(VIEW_ATTEMPTS):
        before = _state(families)
        views = open_views()
        if _state(families) == before:
            return views
        del views
    raise BusyError(
        f"Resource busy: writers came in between on each of {VIEW_ATTEMPTS} tries to open a {what}; try again", code=11
    )


def _state(families: tuple[Any, ...]) -> list[int]:
    return [families[0].latest_sequence_number(), *(family.property_int_value(_VERSION) for family in families)]
