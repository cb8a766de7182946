"""The life of a handle's record: opened, used, released. The only code that releases.

Ownership: the registry's record owns the native object; the handle that the user holds refers to
the record and never to the native object. `record.live` is what the handle's methods call
through. It is set while the handle may be used and *unset* otherwise; to read it then applies the
policy, or raises. What is set stands in the slot `direct`, None while it is unset, which hot paths
read first. A `__getattr__` would need no second name, but Python 3.11 then takes ten times as long
for each attribute of a record: see tests/test_budgets.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _guard, _in_use, _leases, _registry, _watch, events
from saferocks._bound import kept
from saferocks._leases import pending as leases
from saferocks._process import forking, see
from saferocks._registry import (
    ABANDONED,
    ENTERED,
    OPEN,
    REFUSED,
    RELEASED,
    USED,
    Reason,
    Record,
    State,
    records,
)
from saferocks._tally import COLLECTED, NEVER_ENTERED, Telling
from saferocks._totals import counting
from saferocks.errors import (
    ForkedHandleError,
    HandleClosedError,
    HandleExpiredError,
    NotEnteredError,
    SaferocksError,
    UnscopedHandleWarning,
)

if TYPE_CHECKING:
    from saferocks._leases import Lease

#: What to do instead, where that is not to open the handle in a `with`.
_ADVICE: dict[Reason | None, str] = {
    Reason.EXITED: "use it inside",
    Reason.COMMITTED: "open a new one:",
    Reason.FAILED: "open a new one:",
}


class HandleRecord(Record):
    """A record with a life: opened, perhaps entered, released once."""

    __slots__ = ()

    #: Whether a handle that escapes is worth a report (column families are not).
    guarded = True

    @property
    def live(self) -> Any:
        """What the handle's methods call through, if it may be used."""
        live = self.direct
        return self.find() if live is None else live

    @live.setter
    def live(self, live: Any) -> None:
        """Let methods call through this."""
        self.direct = live

    def find(self) -> Any:
        """Return what a method shall call through that has found nothing set, by policy, or raise."""
        if forking:
            see()
        if self.reason is not None:
            return self.after_release()
        if self.owner.closing or self.native is None or self.is_expired():
            raise self.closed_error()
        if self.state is ENTERED or self.state is USED:
            return self.resume()
        self.before_entering()
        self.start(USED)
        return self.live

    def acquire(self, acquire: Callable[[], Any], lease: Lease | None = None) -> None:
        """Acquire the native object for this record, which is in the registry already.

        If that fails, or the database closed meanwhile, nothing stays behind.

        Args:
            acquire: Returns the native object. It takes no arguments, so that no frame that an
                error's traceback keeps has native objects in its variables.
            lease: For how long the handle may be open, if that is limited.
        """
        if events.pending:
            events.drain()
        try:
            self.native = acquire()
            if lease is not None:
                _leases.grant(self, lease)
        except BaseException as error:  # noqa: BLE001 - raised below, see `_engine.failure`
            failure = self.failed(error)
        else:
            if self.reason is None and not self.owner.closing:
                return
            failure = self.failed(self.closed_error())
        _engine.throw(failure)

    def failed(self, error: BaseException) -> list[BaseException]:
        """Undo an opening that failed, and return what to `throw`."""
        with suppress(Exception):  # the error that made the opening fail is the one to tell
            release(self, Reason.ABANDONED)
        self.native = None  # whoever released the record first found nothing to drop
        return _engine.failure(error)

    def before_entering(self) -> None:
        """Decide on a use without `with`; the policy does, unless a kind of handle needs none."""
        try:
            _guard.unscoped(self)
        except (NotEnteredError, UnscopedHandleWarning):
            self.state = REFUSED  # and told: its line is not to be reported as a leak besides
            raise

    def start(self, state: State) -> None:
        """Make the handle usable, unless a release or close came first.

        Those set `reason` or `closing` and then unset `live`; here `live` is set first and then
        those are looked at. So whoever comes second sees the other, and `live` ends up unset.
        It is never set to what a release has left: another thread may be using the handle. And no
        variable refers to what is native when an error is raised, see `_engine.failure`.
        """
        self.state = state
        live = self.native if self.is_plain else self.activated()
        if live is not None:
            self.direct = live
            del live
            if self.reason is None and not self.owner.closing:
                if forking:
                    self.disable()
                return
        raise self.too_late()

    def resume(self) -> Any:
        """Return what the calls of a handle in use go through, which a fork, or a close that failed, has unset.

        While that is under way it stays unset: in the child each use has to come here. It is set
        first and then looked for a fork, which first tells of itself and then unsets: the second
        of the two sees the other.
        """
        live = self.native if self.is_plain else self.activated()
        try:
            if live is not None:
                self.direct = live
                if self.reason is None and not self.owner.closing and not self.is_expired():
                    if forking:
                        self.disable()
                    return live
        finally:
            del live
        if self.reason is not None:
            self.disable()
            self.deactivate()
            return self.after_release()
        raise self.too_late()

    def too_late(self) -> SaferocksError:
        """Undo `start` after a release or close, and return the error to raise."""
        self.disable()
        if self.reason is not None:
            self.state = RELEASED
            self.deactivate()
        return self.closed_error()

    def refused(self) -> SaferocksError:
        """Release a handle that was not let into its `with`, and return the error to raise."""
        error = self.too_late()
        if self.kind != "database":  # which is being closed by whoever came first
            release(self, Reason.DATABASE_CLOSED)
        return error

    def disable(self) -> None:
        """Let no new call start."""
        self.direct = None

    def activated(self) -> Any:
        """Return what `activate` does, or None after a release; no frame of an interrupt keeps what is native."""
        native = self.native
        try:
            return native if native is None else self.activate(native)
        except BaseException as interrupt:
            native = None
            clear_callees(interrupt)
            raise

    def activate(self, native: Any) -> Any:
        """Return what the handle's methods shall call through; the same again when it is asked again."""
        return native

    def deactivate(self) -> None:
        """Let go of what `activate` has kept, after a release that had not found it yet."""

    def after_release(self) -> Any:
        """Answer a use after release: an error, or for a finished scan its end."""
        raise self.closed_error()

    def why(self) -> str:
        """Say why the handle was released."""
        return (self.reason or (Reason.DATABASE_CLOSED if self.owner.closing else Reason.UNDER_WAY)).value

    def closed_error(self) -> SaferocksError:
        """Return the error for a use after release."""
        if self.reason is Reason.FORKED:
            return self.forked_error()
        where = _registry.format_site(self.site)
        if self.is_expired():
            return self.expired_error(where)
        advice = _ADVICE.get(self.reason, "open it inside")
        return HandleClosedError(f"{self.kind} opened at {where} was released {self.why()}; {advice} '{self.remedy}'")

    def is_expired(self) -> bool:
        """Tell whether the handle may not be used any more because its lease has run out."""
        if self.reason is None:
            return self.lease is not None and self.lease.expired
        return self.reason in (Reason.EXPIRED, Reason.SNAPSHOT_EXPIRED)

    def expired_error(self, where: str) -> HandleExpiredError:
        """Return the error for a use after the lease has run out."""
        lease = self.lease
        if lease is None or not lease.expired or self.reason is Reason.SNAPSHOT_EXPIRED:
            return HandleExpiredError(
                f"{self.kind} opened at {where} was released {Reason.SNAPSHOT_EXPIRED.value}; call renew() on the "
                "snapshot in time, or give it a longer expire_after"
            )
        return HandleExpiredError(
            f"{self.kind} opened at {where} was released {Reason.EXPIRED.value}, {lease.expire_after:g} s after "
            f"it was opened or renewed; call renew() in time, or give a longer expire_after: '{self.remedy}'"
        )

    def begin_expiry(self) -> None:
        """Let no new call start, and those that can be cut short end."""
        self.disable()

    def expire(self) -> bool:
        """Release the handle because its lease has run out; False if it was released already."""
        return release(self, Reason.EXPIRED)

    def is_referred_to(self) -> bool:
        """Tell whether anybody but this record refers to the native object; asked while `live` is unset.

        A thread may have fetched it to call a method, without having come to the call.
        """
        return self.native is not None and not _in_use.is_unused_slot(self)

    def forked_error(self) -> SaferocksError:
        """Return the error for a use in a forked child (D14)."""
        where = _registry.format_site(self.site)
        return ForkedHandleError(
            f"{self.kind} opened at {where} belongs to the process that this one was forked from; "
            "open databases after the fork, or start children with 'spawn' or 'forkserver'"
        )

    def dispose(self, native: Any) -> None:
        """Let go of what belongs to the native object beyond the reference to it; done again if it was interrupted."""

    def abandon(self) -> None:
        """Leave the handle to the parent, in a forked child: no use is allowed, nothing native called or dropped."""
        self.reason = Reason.FORKED
        self.state = RELEASED
        self.disable()
        self.native = self.keeper = None  # which live on, see `_fork`

    def is_busy(self) -> bool:
        """Tell whether a call is inside the native object; asked while no new one can start."""
        return False

    def collected(self) -> None:
        """Release and report a handle that was collected while open; runs in finalizers."""
        if _guard.exited:
            return
        escape = self.escape()
        if escape is None:
            release(self, Reason.COLLECTED)
            return
        with Telling(self, escape, waits=False) as found:
            # If not, whoever else tells of it releases it: seeing it released they would say nothing.
            if found is not None and release(self, Reason.COLLECTED):
                _guard.report_collected(*found)

    def is_missed(self) -> bool:
        """Tell whether it is worth a report that this handle is not released by its `with`."""
        return self.guarded and self.state is not REFUSED and not self.is_expired() and not _watch.is_exempt(self)

    def escape(self) -> str | None:
        """Say how a handle that is being collected escaped, or None if it did not."""
        if not self.is_missed():
            return None
        if self.state is ENTERED:
            return COLLECTED
        if self.state is OPEN:
            return NEVER_ENTERED
        # Used without `with`, which was reported then: dropping it is how such code releases.
        return COLLECTED if self.loss else None


def release(record: HandleRecord, reason: Reason) -> bool:
    """Release a handle; True for the one caller who did, False if it was released already.

    Safe from any thread and from finalizers. The record leaves its owner last, once nothing
    native is left of it: so a close that runs meanwhile sees a release that is still under way.
    """
    if forking:
        see()
    try:
        del records[record.id]  # atomic: one of all racing callers goes on
    except KeyError:
        return False
    # A Ctrl-C here would leave what nobody else may release; but signal handlers run at calls and in loops alone
    # (from Python 3.11 on; see also `take_over`).
    try:
        record.reason = reason
        record.state = RELEASED
        if leases:
            _leases.ended(record)
        if counting and reason is not ABANDONED:
            record.owner.totals.released(record.kind, record.opened)
        if record.is_plain:
            record.direct = None
        else:
            record.disable()
            record.dispose(record.native)
    except BaseException as interrupt:
        if not _engine.is_interrupt(interrupt):
            raise
        clear_callees(interrupt)
        record.reason = reason
        record.state = RELEASED
        _leases.ended(record)
        record.disable()
        record.dispose(record.native)
        raise
    finally:
        record.native = None
        record.keeper = None
        if kept:
            kept.pop(record.id, None)
        try:  # `suppress` would take as long as the rest of the release  # noqa: SIM105
            del record.owner.children[record.id]
        except KeyError:  # of an owner that has forgotten its parent's
            pass
    return True


def clear_callees(interrupt: BaseException) -> None:
    """Clear the frames that an interrupt has come through before its catcher's: they refer to what is native."""
    if interrupt.__traceback__ is not None:
        clear_frames(interrupt.__traceback__.tb_next)


def take_over(record: HandleRecord, reason: Reason) -> None:
    """Do a release that somebody has claimed and does not do, because an exception from a signal handler ended them."""
    records[record.id] = record
    release(record, reason)


def wait_until_unused(natives: list[Any], deadline: float) -> None:
    """Wait until no other thread is inside a call on native objects that have been released (D5).

    A call holds a reference to what it is called on, and once `live` is unset no new one starts;
    so the reference counts say when the last one is over, and calls need no counting of their own.

    Args:
        natives: The objects; the caller refers to them by this list alone.
        deadline: Until when to wait, of `time.monotonic`.

    Raises:
        BusyError: If a call is still running then.
    """
    for index in range(len(natives)):
        while not _in_use.is_unused(natives, index):
            if time.monotonic() >= deadline:
                raise _in_use.still_running()
            time.sleep(0)  # such calls are short: they hold the interpreter lock
