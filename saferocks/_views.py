"""Fixed views: native objects that are proved to see one and the same state of the database.

Equal sequence numbers before and after prove that no write came in between. Needed because the
scans of a native snapshot read live data (D1), and native scans do not say why they ended (D4).
"""

from __future__ import annotations

from typing import Any

from saferocks.errors import BusyError

#: How often a view is taken anew because a writer came in between, before the caller hears of it.
VIEW_ATTEMPTS = 1000


def open_scan(rdict: Any, method: str, backwards: bool, start: Any, read_opt: Any) -> tuple[Any, Any]:
    """Open a fast scan and a plain cursor that see the same state (D4).

    `items` and its like never say why they ended; a plain cursor over the same state can. Equal
    sequence numbers around both openings prove that no write came in between.
    """
    scan, cursor = getattr(rdict, method), rdict.iter
    sequence = rdict.latest_sequence_number
    attempts = VIEW_ATTEMPTS
    while attempts:
        before = sequence()
        view = scan(backwards, start, read_opt), cursor(read_opt)
        if sequence() == before:
            return view
        attempts -= 1
    raise _never_settled("scan")


def open_snapshot(families: tuple[Any, ...], cursor_options: list[Any] | None) -> tuple[tuple[Any, Any], ...]:
    """Open native snapshots, and cursors pinned to the same state, for several column families (D1).

    The scans of a native snapshot read live data; an open cursor is a fixed view.

    Args:
        families: The native column families.
        cursor_options: Read options of the cursor of each; None for snapshots without cursors.
    """
    sequence = families[0].latest_sequence_number
    for _ in range(VIEW_ATTEMPTS):
        before = sequence()
        snapshots = [family.snapshot() for family in families]
        cursors = [family.iter(each) for family, each in zip(families, cursor_options or (), strict=False)]
        views = tuple(zip(snapshots, cursors or [None] * len(families), strict=True))
        if sequence() == before:
            return views
    raise _never_settled("snapshot")


def _never_settled(what: str) -> BusyError:
    return BusyError(
        f"Resource busy: writers came in between on each of {VIEW_ATTEMPTS} tries to open a {what}; try again", code=11
    )
