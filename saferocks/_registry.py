"""The registry: one record for every native object that is open in this process.

A record is the last owner of its native object, so a handle that is collected is first reported
and then released. Records are added and removed by single dict operations, which are atomic, and
no lock is ever held here: a finalizer may run at any bytecode of any thread, also inside the
functions below. Every figure that anybody reports is derived from one `snapshot()`.
"""

from __future__ import annotations

import gc
import itertools
import sys
from enum import Enum
from operator import attrgetter
from threading import RLock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from saferocks import _settings, _totals
from saferocks._bound import bound, kept, modules
from saferocks._process import forking, see
from saferocks._settings import INHERITED

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from saferocks._bound import Bound
    from saferocks._settings import Duration, Policy, Trace

#: A place in the code, as a code object and an instruction offset; cheap to take, formatted late.
Site = tuple["CodeType | None", int]

_STACK_DEPTH = 8
_PACKAGE = __file__.rpartition("_registry")[0]
#: The names of files that are not this package's: to look is a fifth of the time of `startswith`.
_foreign: set[str] = set()
_MOST_FOREIGN = 10_000
_NOWHERE: Site = (None, 0)


class State(Enum):
    """The life of a handle runs one way: open, perhaps entered (or used without), released."""

    OPEN = "open"
    REFUSED = "open, and refused to be used without 'with'"
    USED = "used without entering"
    ENTERED = "entered"
    RELEASED = "released"


# Members of an Enum are slow to reach through their class; the hot paths use these names.
OPEN, REFUSED, USED, ENTERED, RELEASED = State.OPEN, State.REFUSED, State.USED, State.ENTERED, State.RELEASED


class Reason(Enum):
    """Why a handle was released."""

    EXITED = "when its 'with' block ended"
    EXHAUSTED = "when its scan was complete"
    CLOSED = "when it was closed"
    COMMITTED = "when it was committed"
    FAILED = "when writing it failed"
    ABANDONED = "when its opening failed"
    DATABASE_CLOSED = "when its database closed"
    SNAPSHOT_RELEASED = "when its snapshot was released"
    FAMILY_DROPPED = "when its column family was dropped"
    COLLECTED = "when it was collected"
    EXPIRED = "when its lease expired"
    SNAPSHOT_EXPIRED = "when the lease of its snapshot expired"
    FORKED = "when this process was forked"
    LEAKED = "when it was found to have leaked"
    UNDER_WAY = "by another thread at this moment"  # which has yet to say why; never a record's reason


# As for the states.
EXITED, EXHAUSTED, ABANDONED = Reason.EXITED, Reason.EXHAUSTED, Reason.ABANDONED


class Owner:
    """What handles belong to: one database, or the process for free-standing handles.

    Attributes:
        name: The path of the database, or None.
        children: Its open handles, oldest first, by id.
        leaks: Tallies of what escaped and has not been raised yet, kept by the guard.
        closing: True from the start of a close, for good once it is done; no handle opens then.
        own_lease: Its own `warn_after` and `expire_after` for its handles, given or left out.
        totals: What has become of its handles, and of those of others of the same name.
    """

    __slots__ = (
        "__weakref__", "children", "closing", "leaks", "name", "own_lease", "own_policy", "own_trace", "totals",
    )  # fmt: skip

    def __init__(self, name: str | None, policy: Policy | None = None, trace: Trace | None = None) -> None:
        self.name = name
        self.own_policy: Policy | None = policy
        self.own_trace: Trace | None = trace
        self.own_lease: tuple[Duration, Duration] = (INHERITED, INHERITED)
        self.children: dict[int, Record] = {}
        self.leaks: dict[Any, Any] = {}
        self.closing = False
        self.totals = _totals.of_database(name, _open_names)

    @property
    def policy(self) -> Policy:
        """The policy in force for this owner's handles."""
        return self.own_policy or _settings.current.policy

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, the handles and leaks of the parent."""
        self.children.clear()
        self.leaks.clear()


def _open_names() -> set[str | None]:
    """Return the names of the databases that are open."""
    return {record.owner.name for record in list(records.values()) if record.kind == "database"}


#: Handles that belong to no database.
PROCESS = Owner(None)

#: All open handles of the process, oldest first, by id.
records: dict[int, Record] = {}
_ids = itertools.count(1)
_number_of = attrgetter("id")
_getframe = sys._getframe


def start_afresh() -> None:
    """Forget all handles, in a forked child: none in it is its own, and no other thread runs."""
    global _listing  # noqa: PLW0603 - once in each process
    records.clear()
    kept.clear()
    _listing = RLock()  # a thread that is no more may have held it


def next_number() -> int:
    """Return a number that no handle has: higher than that of every handle so far, lower than all to come."""
    return next(_ids)


class Record:
    """What the registry knows of one handle; never refers to the handle itself.

    Attributes:
        id: Unique in the process, ascending in the order of opening.
        owner: The database (or the process) that the handle belongs to.
        native: The native object or objects; dropping it is the release. None while it is still
            being acquired: a record is made first, so that a close that runs in between sees it
            and waits, and nothing native exists that no record knows.
        keeper: What has to live as long as the native object: for an iterator, a handle of its
            column family (D22).
        receiver: What it was opened from, as the remedy names it: `db`, `family` or `snap`.
        state: Where the handle is in its life.
        reason: Why it was released, once it is.
        site: The opener's call.
        stack: The frames of the opening under `trace="stack"`.
        opened: `time.monotonic()` at the opening.
        thread: Identifier of the opening thread.
        label: The caller's own name for the handle.
        lease: For how long it may be open, if that is limited.
        direct: What the handle's methods call through; None while it may not be used.
        is_plain: Whether that is the native object itself, and to drop it is the whole release; set by the
            opener. (A slot and not a variable of the class: Python 3.11 takes ten times as long to read one.)
    """

    __slots__ = (
        "direct",
        "id",
        "is_plain",
        "keeper",
        "label",
        "lease",
        "native",
        "opened",
        "owner",
        "reason",
        "receiver",
        "site",
        "stack",
        "state",
        "thread",
    )

    kind = "handle"
    #: How many frames of this package lie above the opener's call at the least, the constructor's included.
    depth = 2
    id: int
    owner: Owner
    native: Any
    keeper: Any
    receiver: str
    state: State
    reason: Reason | None
    site: Site
    stack: tuple[Site, ...]
    opened: float
    thread: int
    label: str | None
    lease: Any
    direct: Any
    is_plain: bool

    def __init__(self, owner: Owner, label: str | None = None) -> None:
        register(self, owner, label, self.depth + 1)

    @property
    def bound(self) -> Bound:
        """What was bound to structlog's context variables at the opening; nothing once it is released."""
        return kept.get(self.id, ())

    @property
    def note(self) -> str | None:
        """What the handle is about, if there is more to say than its kind."""
        return None

    @property
    def loss(self) -> str | None:
        """What is lost with the handle, if anything."""
        return None

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return f"with db.{self.kind}() as {self.kind}:"

    @property
    def age(self) -> float:
        """Seconds since the opening."""
        return monotonic() - self.opened


#: Makes an object without its constructor, whose call would take longer than all that it does.
blank = object.__new__


def register(record: Record, owner: Owner, label: str | None, depth: int) -> None:
    """Fill in a record, and put it in the registry, before anything native is acquired for it.

    Every handle pays this, so it calls as little as can be: each call is a thirtieth of what it takes.

    Args:
        record: One that is blank, but for what its class adds.
        owner: What the handle belongs to.
        label: The caller's own name for it.
        depth: How many frames of this package there are from this function to the opener's call, at the least.

    Raises:
        TypeError: If the label is no text.
    """
    if label is not None and not isinstance(label, str):
        raise TypeError(f"label is {label!r}; give a str")
    if forking:  # a handle that a forked child opens is its own, and none of those that it inherits
        see()
    trace = owner.own_trace or _settings.current.trace
    if trace == "off":
        record.site, record.stack = _NOWHERE, ()
    else:
        try:
            frame = _getframe(depth)
        except ValueError:  # called by the interpreter itself, as a thread's first function for instance
            frame = _getframe(1)
        code = frame.f_code
        if code.co_filename not in _foreign:
            frame = _caller(frame)
            code = frame.f_code
        record.site = (code, frame.f_lasti)
        record.stack = _frames(frame) if trace == "stack" else ()
    record.owner = owner
    record.native = None
    record.keeper = None
    record.receiver = "db"
    record.label = label
    record.lease = None
    record.direct = None
    record.is_plain = False
    record.state = OPEN
    record.reason = None
    record.thread = get_ident()
    record.opened = monotonic()
    record.id = number = next(_ids)
    if "structlog" in modules:
        found = bound()
        if found:  # nothing is called between this and the last line, so no interrupt comes in between
            kept[number] = found
    # From here on the handle is in the registry, and only `release` takes it out.
    owner.children[number] = record
    records[number] = record


def _caller(frame: FrameType) -> FrameType:
    """Return the first frame from `frame` outwards that is not of this package."""
    outer: FrameType | None = frame
    while outer is not None:
        name = outer.f_code.co_filename
        if name in _foreign:
            return outer
        if not name.startswith(_PACKAGE):
            if len(_foreign) >= _MOST_FOREIGN:  # a program that compiles code as it runs has ever new files
                _foreign.clear()
            _foreign.add(name)
            return outer
        frame, outer = outer, outer.f_back
    return frame  # see above


def _frames(frame: FrameType | None) -> tuple[Site, ...]:
    found: list[Site] = []
    while frame is not None and len(found) < _STACK_DEPTH:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


_listing = RLock()


def running_threads() -> frozenset[int]:
    """Return the identifiers of all threads that run Python, also of those that `threading` does not list.

    Up to Python 3.11 `sys._current_frames` holds the interpreter's lock on its list of threads
    while it makes room for the answer. That may start a collection, whose finalizers may let
    another thread run, and one that starts or ends then waits for that lock for ever.
    """
    if sys.version_info >= (3, 12):
        return frozenset(sys._current_frames())
    with _listing:
        collects = gc.isenabled()
        gc.disable()
        try:
            return frozenset(sys._current_frames())
        finally:
            if collects:
                gc.enable()


def snapshot() -> list[Record]:
    """Return one consistent copy of all open records of this process, oldest first."""
    if forking:
        see()
    return in_order(records)


def in_order(some: dict[int, Record]) -> list[Record]:
    """Return a copy of records, oldest first.

    `list` makes room before it looks at the dict, so a collection that this triggers has removed
    what it removes by then; `tuple` does it the other way round, and fails. Two threads that open
    at the same moment may insert in the other order than they have got their numbers: hence the
    sort, which takes no time over what is sorted but for that.
    """
    found = list(some.values())
    found.sort(key=_number_of)
    return found


def format_site(site: Site) -> str:
    """Write a place as `file:line`, or `an unrecorded line` if no trace was kept."""
    code = site[0]
    if code is None:
        return "an unrecorded line"
    return f"{code.co_filename}:{line_of(site)}"


def line_of(site: Site) -> int:
    """Return the line number of a place, or 0 if no trace was kept."""
    code, lasti = site
    if code is None:
        return 0
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


def format_frame(site: Site) -> str:
    """Write a place as `file:line in function`."""
    code = site[0]
    return format_site(site) if code is None else f"{format_site(site)} in {code.co_name}"
