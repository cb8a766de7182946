"""What tests may be allowed: kinds of handles to leave open, and time for threads to let go of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The kinds of handles that can leak; column families are closed with their database.
KINDS = ("iterator", "snapshot", "write_batch", "checkpoint", "sst_writer", "database")
#: Seconds for which threads may still let go of their handles.
GRACE = 0.5
_LONGEST = 3600


def checked_kinds(kinds: Iterable[str]) -> frozenset[str]:
    """Return kinds of handles as a set.

    Raises:
        ValueError: If there is no such kind.
    """
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in given:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of handle {kind!r}; there are {', '.join(map(repr, KINDS))}")
    return frozenset(given)


def checked_grace(grace: Any) -> float:
    """Return a time to wait, in seconds.

    Raises:
        ValueError: If it is negative, longer than an hour, or not a number.
    """
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace <= _LONGEST:
        raise ValueError(f"grace is {grace!r}; give seconds, 0 to {_LONGEST}")
    return float(grace)
