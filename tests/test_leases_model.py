"""Any order of opening, renewing, releasing, collecting and waiting, against a model of what leases promise."""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import saferocks
from saferocks import _leases, _registry
from saferocks.inspection import pending_deadlines
from tests.conftest import MovedClock, moved_clock

if TYPE_CHECKING:
    from collections.abc import Callable

#: How each kind is opened, and used without changing anything.
KINDS: dict[str, tuple[Callable[..., Any], Callable[[Any], object]]] = {
    "items": (lambda db, **terms: db.items(**terms), iter),
    "cursor": (lambda db, **terms: db.iter(**terms), lambda cursor: cursor.valid()),
    "snapshot": (lambda db, **terms: db.snapshot(**terms), lambda snap: snap.get(b"k")),
    "point snapshot": (lambda db, **terms: db.snapshot(point_reads_only=True, **terms), lambda snap: snap.get(b"k")),
    "batch": (lambda db, **terms: db.write_batch(**terms), lambda batch: batch.len()),
}
#: In eighths of a second, so that sums of them are exact.
STEPS = st.integers(1, 80).map(lambda eighths: eighths / 8)


@dataclass
class Expected:
    """What the model knows of one open handle."""

    handle: Any
    use: Callable[[Any], object]
    warn_after: float | None
    expire_after: float | None
    opened: float
    began: float
    overdue: bool = False
    ever_overdue: bool = False
    entered: bool = False

    @property
    def due(self) -> float | None:
        """When something is due next."""
        if self.warn_after is not None and not self.overdue:
            return self.began + self.warn_after
        return None if self.expire_after is None else self.began + self.expire_after


def leave(found: Expected) -> None:
    """Leave a handle, which is entered first if it has not been."""
    if not found.entered:
        found.handle.__enter__()
    found.handle.__exit__(None, None, None)


class Events(logging.Handler):
    """Keeps the events of leases, by label."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        name = record.getMessage().split()[0].removeprefix("saferocks.handle_")
        fields = record.saferocks  # type: ignore[attr-defined]
        self.found.append((name, fields["label"], fields["age"]))


class Leases(RuleBasedStateMachine):
    """Handles with all kinds of leases, under a clock that only the rules move."""

    clock: MovedClock

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, Expected] = {}
        self.ended: list[Expected] = []
        self.expected: list[tuple[str, str, float]] = []
        self.number = 0
        self.stack = ExitStack()
        self.events = Events()
        logger = logging.getLogger("saferocks")
        logger.addHandler(self.events)
        self.stack.callback(logger.removeHandler, self.events)

    @initialize()
    def start(self) -> None:
        """Open a database."""
        self.stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", saferocks.OverdueHandleWarning)
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.clock = self.stack.enter_context(moved_clock())
        self.db = self.stack.enter_context(saferocks.open(f"{folder}/db", policy="ignore", statistics=True))
        self.db[b"k"] = b"v"

    @rule(kind=st.sampled_from(sorted(KINDS)), warn=st.none() | STEPS, expire=st.none() | STEPS, enter=st.booleans())
    def open_handle(self, kind: str, warn: float | None, expire: float | None, enter: bool) -> None:
        """Open a handle, with two durations, one or none."""
        opener, use = KINDS[kind]
        if warn is not None and expire is not None and warn >= expire:
            with pytest.raises(ValueError, match="could never come"):
                opener(self.db, warn_after=warn, expire_after=expire)
            return
        self.number += 1
        label = str(self.number)
        handle = opener(self.db, warn_after=warn, expire_after=expire, label=label)
        if enter:
            handle.__enter__()
        now = self.clock.time
        self.open[label] = Expected(handle, use, warn, expire, now, now, entered=enter)

    def _some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.open)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        """Enter a handle that is open."""
        found = self.open[self._some(data)]
        if not found.entered:
            found.handle.__enter__()
            found.entered = True

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Renew a handle, if it has a lease."""
        found = self.open[self._some(data)]
        if not found.entered:
            return
        if found.warn_after is None and found.expire_after is None:
            with pytest.raises(saferocks.HandleError, match="no lease"):
                found.handle.renew()
            return
        found.handle.renew()
        found.began, found.overdue = self.clock.time, False

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Leave a handle."""
        label = self._some(data)
        found = self.open.pop(label)
        leave(found)
        self._returned(label, found)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Drop a handle without leaving it."""
        label = self._some(data)
        found = self.open.pop(label)
        record = found.handle._record
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.handle = None
            gc.collect()
        assert record.reason is _registry.Reason.COLLECTED
        self._returned(label, found)

    def _returned(self, label: str, found: Expected) -> None:
        self.clock.settle()
        if found.ever_overdue:
            self.expected.append(("returned", label, self.clock.time - found.opened))

    @rule(seconds=STEPS)
    def wait(self, seconds: float) -> None:
        """Let time pass, from one deadline to the next."""
        until = self.clock.time + seconds
        while True:
            due = [found.due for found in self.open.values() if found.due is not None and found.due <= until]
            self.clock.advance(min(due, default=until) - self.clock.time)
            if not due:
                return
            self._come()

    def _come(self) -> None:
        now = self.clock.time
        for label, found in list(self.open.items()):
            if found.due != now:
                continue
            if found.warn_after is not None and not found.overdue:
                found.overdue = found.ever_overdue = True
                self.expected.append(("overdue", label, now - found.opened))
            else:
                self.expected.append(("expired", label, now - found.opened))
                self.ended.append(self.open.pop(label))

    @invariant()
    def nothing_is_told_early_twice_or_never(self) -> None:
        """The events are those of the model, each with its age."""
        told = [event for event in self.events.found if event[1] is not None and event[0] in TOLD]
        assert sorted(told) == sorted((name, label, round(age, 3)) for name, label, age in self.expected)

    @invariant()
    def deadlines_are_those_of_live_handles(self) -> None:
        """Each handle with something still to come has one deadline; each with a lease is known."""
        assert pending_deadlines() == sum(found.due is not None for found in self.open.values())
        leased = [found for found in self.open.values() if (found.warn_after, found.expire_after) != (None, None)]
        assert len(_leases.pending) == len(leased)

    @invariant()
    def what_has_expired_cannot_be_used(self) -> None:
        """Everything that has expired raises, holds nothing, and is left in silence; all else can be used."""
        for found in self.ended:
            with pytest.raises(saferocks.HandleExpiredError):
                found.use(found.handle)
            with pytest.raises(saferocks.HandleExpiredError):
                found.handle.renew()
            found.handle.__exit__(None, None, None)
            assert found.handle._record.native is None
        for found in self.open.values():
            if found.entered:
                found.use(found.handle)
        if hasattr(self, "db"):
            assert self.db.audit().ok

    def teardown(self) -> None:
        """Leave what is open; the clock then sees that nothing is watched any more."""
        with self.stack:
            for found in self.open.values():
                leave(found)
            self.open.clear()


TOLD = frozenset({"overdue", "returned", "expired"})
TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
pytestmark = pytest.mark.about_leaks
