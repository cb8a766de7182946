"""What the handles of a watch have leaked: found, released and forgotten."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _closing, _guard, _registry, _watch, events
from saferocks._life import release
from saferocks._registry import Reason
from saferocks._tally import Telling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saferocks._life import HandleRecord
    from saferocks._watch import Watch
    from saferocks.errors import Leak

_CLOSE_SECONDS = 10.0
_PAUSE = 0.001


@dataclass(frozen=True)
class Reckoning:
    """What has leaked.

    Attributes:
        leaks: What escaped, one entry for each opening line and way of escape.
        failures: The texts of the errors that releasing it has met.
    """

    leaks: tuple[Leak, ...]
    failures: tuple[str, ...] = ()


def reckon(watch: Watch, grace: float) -> Reckoning:
    """Find what the handles of a watch have leaked; release it, and see to it that nobody reports it again.

    Args:
        watch: Whose handles.
        grace: Seconds for which other threads may still let go of what they have open.
    """
    ended = time.monotonic()
    _watch.exempt_for_good(record for record in left_open(watch) if _is_pardoned(watch, record))
    left = left_open(watch)
    if left:
        gc.collect()  # a cycle, or a generator in one, may yet end its `with`
        _wait_for_threads(watch, left, grace)
        left = left_open(watch)
    with ExitStack() as tellings:
        for record in left:
            if record.reason is None and record.is_missed():
                escape = f"still open when the {watch.what} ended"
                tellings.enter_context(Telling(record, escape, max(0.0, ended - record.opened)))
        failures = _release(left)
    _watch.exempt_for_good(left_open(watch))  # what could not be released
    return Reckoning(collect_escaped(watch), failures)


def _is_pardoned(watch: Watch, record: HandleRecord) -> bool:
    return record.kind in watch.allowed or record.owner.policy == "ignore"


def collect_escaped(watch: Watch) -> tuple[Leak, ...]:
    """Return what has escaped of a watch's handles so far, and forget it."""
    tallies = []
    while watch.leaks:  # finalizers add to it, nobody else takes out
        tallies.append(watch.leaks.popitem()[1])
    tallies.reverse()
    _guard.forget(tallies)
    events.drain()
    return tuple(found.as_leak() for found in tallies if found.kind not in watch.allowed and found.policy != "ignore")


def left_open(watch: Watch) -> list[HandleRecord]:
    """Return the open handles of a watch, oldest first; column families end with their database."""
    return [
        record  # type: ignore[misc]  # every record that is opened is a HandleRecord
        for record in _registry.snapshot()
        if watch.since(record.id, record.thread) >= 0  # which rules out most, and at little cost
        and record.kind != "column_family"
        and record.id not in _watch.exempt
        and _watch.whose(record) is watch
    ]


def _wait_for_threads(watch: Watch, records: Sequence[HandleRecord], seconds: float) -> None:
    """Wait until threads that were started under a watch have let go of its handles."""
    deadline = time.monotonic() + seconds
    while any(record.reason is None for record in records) and watch.has_threads() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _release(records: Sequence[HandleRecord]) -> tuple[str, ...]:
    """Release handles, youngest first; returns what went wrong with it."""
    failures: list[str] = []
    for record in reversed(records):
        try:
            if record.kind == "database":
                _closing.close(record, timeout=_CLOSE_SECONDS)  # type: ignore[arg-type]  # it is a DatabaseRecord
            else:
                release(record, Reason.LEAKED)
        except Exception as error:  # noqa: BLE001 - it is told with the leak; the others have to be released too
            failures.append(f"the {record.kind} could not be released: {error}")
    return tuple(failures)
