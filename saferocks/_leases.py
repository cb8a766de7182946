"""Leases: handles that are warned of when they are open for long, and released when it is too long.

A lease is tied to the record of its handle, never to a key under which another could follow. It
runs in terms: the first begins at the opening, and each `renew` ends one and begins the next.
What becomes of a term is decided once, by an atomic `dict.setdefault`: it is followed by another
term, or it has expired. So of a renewal and an expiry that come at the same moment, one goes on
and the other sees it.

A release takes its handle out of `pending`, by one atomic `dict.pop`: it may be a finalizer, which
runs at any bytecode of any thread. How the deadlines go with it is said in `_deadlines`.
"""

from __future__ import annotations

import itertools
from enum import Enum
from typing import TYPE_CHECKING, Any

from saferocks import _guard, _registry, _settings, _telling, _watch, events
from saferocks._bound import kept
from saferocks._deadlines import Clock, Watcher, attempt
from saferocks._registry import Reason
from saferocks._settings import INHERITED, check_order, given, is_ordered, seconds
from saferocks._tally import identity
from saferocks.errors import HandleError, OverdueHandleWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saferocks._bound import Bound
    from saferocks._life import HandleRecord
    from saferocks._registry import Owner, Record, Site
    from saferocks._settings import Duration

#: The leases of all open handles that have one, by the handle's id.
pending: dict[int, Lease] = {}

#: Seconds between looks at a handle that is to be released, and is in use.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.05
#: Seconds for which an expired handle waits for whoever still refers to its native object, without being inside.
_PATIENCE = 5.0
#: Releases by which a call that was under way when the lease ran out has done all that it was to do.
_IN_TIME = frozenset({Reason.COMMITTED, Reason.EXHAUSTED})


class Stage(Enum):
    """How far a term has come."""

    RUNNING = "neither overdue nor expired"
    OVERDUE = "overdue"
    EXPIRING = "expired, and to be released as soon as no call is inside"


class Lease:
    """For how long one handle may be open.

    Attributes:
        warn_after: Seconds after which it is overdue, or None.
        expire_after: Seconds after which it is released, or None.
        opened: When it was opened, by the watcher's clock.
        term: The term that runs, or one before it; None once the handle has been released.
        expired: Whether it may not be used any more.
        owed: Holds one token while it has been called overdue and nobody was told of its return.
        thread: The name of the opening thread, as it was told.
        bound: What was bound to structlog's context variables at the opening.
    """

    __slots__ = ("bound", "expire_after", "expired", "opened", "owed", "term", "thread", "warn_after")

    def __init__(self, warn_after: float | None, expire_after: float | None) -> None:
        self.warn_after = warn_after
        self.expire_after = expire_after
        self.opened = 0.0
        self.term: Term | None = None
        self.expired = False
        self.owed: list[None] = []
        self.thread = ""
        self.bound: Bound = ()

    def expires_at(self) -> float | None:
        """Return when the handle expires unless it is renewed, by the watcher's clock."""
        term = self.term
        return None if term is None or self.expire_after is None else term.last().began + self.expire_after


class Term:
    """One term of a lease, and its one deadline.

    Attributes:
        began: When, by the watcher's clock.
        outcome: What became of it, once that is decided: the next term, or EXPIRING.
    """

    __slots__ = ("began", "lease", "outcome", "pause", "record", "stage")

    def __init__(self, record: HandleRecord, lease: Lease, began: float) -> None:
        self.record = record
        self.lease = lease
        self.began = began
        self.outcome: dict[str, Term | Stage] = {}
        self.stage = Stage.RUNNING
        self.pause = _FIRST_PAUSE

    def last(self) -> Term:
        """Return the term that runs now: this one, or what has followed it."""
        term = self
        while isinstance(following := term.outcome.get(""), Term):
            term = following
        return term

    def is_live(self) -> bool:
        """Tell whether its deadline is still to come."""
        return pending.get(self.record.id) is self.lease and not isinstance(self.outcome.get(""), Term)

    def first_due(self) -> float:
        """Return when something is first due."""
        lease = self.lease
        if lease.warn_after is not None:
            return self.began + lease.warn_after
        return self.began + (lease.expire_after or 0.0)  # a lease has one of the two

    def come(self, now: float) -> float | None:
        """Do what is due."""
        lease = self.lease
        if self.stage is Stage.RUNNING and lease.warn_after is not None:
            self.stage = Stage.OVERDUE
            _tell_overdue(self.record, lease)
            return None if lease.expire_after is None else self.began + lease.expire_after
        if self.stage is not Stage.EXPIRING:
            if self.outcome.setdefault("", Stage.EXPIRING) is not Stage.EXPIRING:
                return None  # it was renewed since
            self.stage = Stage.EXPIRING
        return self._expire(now)

    def _expire(self, now: float) -> float | None:
        """Release the handle, or return when to try again: nothing is pulled from under a call."""
        record, lease = self.record, self.lease
        lease.expired = True
        record.begin_expiry()
        waited = now - self.began - (lease.expire_after or 0.0)
        if record.is_busy() or (waited < _PATIENCE and record.is_referred_to()):
            self.pause = min(2 * self.pause, _LAST_PAUSE)
            return now + self.pause
        attempt(record.expire)
        attempt(events.drain)
        return None


# --------------------------------------------------------------------------- any thread


def asked_for(owner: Owner, warn_after: Duration, expire_after: Duration) -> Lease | None:
    """Return the lease that an opener asks for, if any.

    What the opener gives comes before what its database was opened with, and that before what
    `configure` says; None turns off what the next level says. A warning that would come no sooner
    than the expiry is an error where the opener has given one of the two. Where it has given
    neither, the expiry applies, and the warning does not.

    Raises:
        TypeError: If a duration is no number.
        ValueError: If one is not positive and finite, or `warn_after` is not shorter.
    """
    warn, expire = warn_after, expire_after
    if warn is not None and warn is not INHERITED:
        warn = seconds("warn_after", warn)
    if expire is not None and expire is not INHERITED:
        expire = seconds("expire_after", expire)
    if _settings.has_lease_defaults:
        current, database = _settings.current, owner.own_lease
        warn = given(warn, given(database[0], current.warn_after))
        expire = given(expire, given(database[1], current.expire_after))
    else:  # nobody has said anything but the opener
        warn = None if warn is INHERITED else warn
        expire = None if expire is INHERITED else expire
    if warn is None and expire is None:
        return None
    if warn is not None and expire is not None and not is_ordered(warn, expire):
        if warn_after is not INHERITED or expire_after is not INHERITED:
            check_order(warn, expire)
        warn = None
    return Lease(warn, expire)


def grant(record: HandleRecord, lease: Lease) -> None:
    """Begin the lease of a handle that has just been opened.

    A release sets `reason` first and then looks into `pending`; here it is the other way round,
    and so the second of the two sees the other.
    """
    began = lease.opened = watcher.clock.now()
    lease.term = term = Term(record, lease, began)
    if kept:
        lease.bound = record.bound  # which the record knows no more when the last of its events is told
    record.lease = lease
    pending[record.id] = lease
    if record.reason is None:
        watcher.add(term.first_due(), term)
    else:
        ended(record)


def renew(record: HandleRecord) -> None:
    """Begin a new term, in which both durations count anew.

    Raises:
        HandleClosedError: If the handle has been released, or has expired.
        NotEnteredError: If it has not been entered, under the policy `raise`.
        HandleError: If it has no lease.
    """
    record.live
    if record.reason is not None:  # a scan that is complete is not yet an error to go on with
        raise record.closed_error()
    lease = record.lease
    if lease is None:
        where = _registry.format_site(record.site)
        raise HandleError(
            f"{record.kind} opened at {where} has no lease to renew; open it with warn_after= or expire_after="
        )
    if not _begin_again(record, lease):
        raise record.closed_error()


def _begin_again(record: HandleRecord, lease: Lease) -> bool:
    """Add a term after the last one, unless that has expired or the handle been released."""
    last = lease.term
    fresh = Term(record, lease, watcher.clock.now())
    while last is not fresh:
        if last is None:
            return False
        # Another thread may have read the clock later, and renewed sooner: nobody's term becomes shorter by that.
        fresh.began = max(fresh.began, last.began)
        following = last.outcome.setdefault("", fresh)
        if isinstance(following, Stage):
            lease.expired = True  # which the watcher may be about to say
            return False
        last = following
    lease.term = fresh
    if record.reason is not None:  # released since: leave no circle behind
        lease.term = None
        return False
    watcher.add(fresh.first_due(), fresh)
    watcher.removed()  # the deadline of the term before
    return True


def ended(record: Record) -> None:
    """Forget the lease of a handle that is being released, if it has one; safe in finalizers."""
    lease = pending.pop(record.id, None)
    if lease is not None:
        lease.term = None  # which refers to the lease
        watcher.removed(at_once=_settle(record, lease))


def _settle(record: Record, lease: Lease) -> bool:
    """Queue the event that tells of the handle's end, if it is one of note; the watcher logs it."""
    if lease.expired and record.reason not in _IN_TIME:
        more = {"expire_after": lease.expire_after, "note": record.loss}
        events.defer(_event("handle_expired", record, lease, **more))
        return True
    if not lease.owed:  # it was not overdue
        return False
    try:
        lease.owed.pop()
    except IndexError:  # somebody else has told it
        return False
    events.defer(_event("handle_returned", record, lease))
    return True


#: How often each thing has happened to handles of each line. `next` on a counter is atomic, as is `setdefault`.
#: The lines are kept, so that no other gets their identity.
_counts: dict[tuple[str, str, tuple[int, int]], tuple[itertools.count[int], Site]] = {}
_MOST_COUNTED = 10_000


def _count(name: str, record: Record) -> int:
    """Count a handle to which something has happened, and return which one of its line it is; safe in finalizers."""
    if len(_counts) >= _MOST_COUNTED:  # a program that compiles code as it runs has ever new lines
        _counts.clear()
    key = name, record.kind, identity(record.site)
    return next(_counts.setdefault(key, (itertools.count(1), record.site))[0])


def _event(name: str, record: Record, lease: Lease, **more: Any) -> events.Event:
    fields = _telling.fields_of(
        record,
        age=watcher.clock.now() - lease.opened,
        count=_count(name, record),
        thread=lease.thread,
        stack="\n".join(map(_registry.format_frame, record.stack)) or None,
        **more,
    )
    return events.warning(f"saferocks.{name}", lease.bound, fields)


def figures(record: Record) -> dict[str, float | None]:
    """Return what there is to tell of a handle's lease, if it has one."""
    lease = pending.get(record.id)
    if lease is None:
        return {}
    expires_at = lease.expires_at()
    return {
        "warn_after": lease.warn_after,
        "expire_after": lease.expire_after,
        "expires_in": None if expires_at is None else max(0.0, expires_at - watcher.clock.now()),
    }


# --------------------------------------------------------------------------- the watcher's thread


def _tell_overdue(record: HandleRecord, lease: Lease) -> None:
    lease.thread = _watch.thread_name(record.thread)
    event = _event("handle_overdue", record, lease, warn_after=lease.warn_after)
    attempt(events.emit, event)
    attempt(_warn, record, lease, event.fields)
    # A release leaves `pending` and then looks for this token; here it is the other way round.
    lease.owed.append(None)
    if record.id not in pending and _settle(record, lease):
        attempt(events.drain)


def _warn(record: HandleRecord, lease: Lease, fields: Mapping[str, Any]) -> None:
    """Warn of a handle, if it is the 1st, 10th, 100th, ... of its line."""
    count = fields["count"]
    if record.owner.policy == "ignore" or not _guard.is_milestone(count):
        return
    label = f" [{record.label}]" if record.label else ""
    stack = "".join(f"\n    {_registry.format_frame(frame)}" for frame in record.stack)
    _guard.warn(
        f"{record.kind} opened at {fields['opened_at']}{label} is still open after {fields['age']:g} s, and its "
        f"warn_after is {lease.warn_after:g} s{_ordinal(count)}; leave its 'with' sooner, renew() it, or give it "
        f"a longer warn_after{stack}",
        OverdueHandleWarning,
        record.site,
    )


def _ordinal(count: int) -> str:
    return "" if count == 1 else f" (overdue handle number {count} of this line)"


def _awake() -> bool:
    """Log what others have queued; nothing more is done once the interpreter's exit has been summed up."""
    if _guard.exited:
        return False
    attempt(events.drain)
    return True


#: Watches all deadlines of the process.
watcher = Watcher(Clock(), pending, _awake)


def start_afresh() -> None:
    """Forget all leases, in a child process, where the watcher's thread is not."""
    global watcher  # noqa: PLW0603 - its alarm may be in any state
    pending.clear()
    watcher = Watcher(watcher.clock, pending, _awake)
