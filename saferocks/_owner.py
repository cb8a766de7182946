"""What the handles of one open database have in common."""

from __future__ import annotations

import pickle
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saferocks import _engine, _in_use, _registry
from saferocks._engine import DatabaseClosedError
from saferocks._life import HandleRecord
from saferocks._registry import Owner, Reason
from saferocks._settings import INHERITED, expect_leases
from saferocks._views import Changes
from saferocks.errors import ColumnFamilyDroppedError, ReadOnlyError, SaferocksError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from saferocks._instance import Following
    from saferocks._options import AccessType
    from saferocks._registry import State
    from saferocks._settings import Duration, Policy, Trace

#: Seconds between looks at calls in flight.
_PAUSE = 0.0005


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """A native column family that no handle owns.

    Attributes:
        native: It.
        settings: The owner's, with which it was made; None if it has its own, so that no other handle is to get it.
    """

    native: Any
    settings: object | None


class DatabaseOwner(Owner):
    """One open database.

    Attributes:
        name: Its path, as it was given.
        directory: The same, absolute.
        identity: What told that directory from all others when it was opened; see `_directory.identity`.
        raw: Whether it holds raw bytes.
        access: How it was opened.
        changes: What has changed without a new sequence number.
        options: The native options it was opened with; its statistics are read through them.
        families: The names of its column families.
        natives: Native column families by name, for snapshots and for asking RocksDB what they hold; under `lock`.
            They are kept until the close (D25).
        spares: Native column families that handles have left, by name and the number of the handle, for the next
            handles (D25): as many as were open at once. Calls may be under way in them.
        dropping: The names of the column families that are being dropped, of which nothing is kept.
        following: How a secondary catches up; None for what is no secondary.
        instance: Changes when the handles have gone over to another native instance (D26).
        settings: Changes when the encoding or the options of the database do, which its column families begin with.
        dumps: How batches encode what rocksdict does not store by itself; None for pickle.
        plain_tables: The column families of plain tables, whose scans cannot use total order.
        close_timeout: Seconds for which a close waits for calls in flight.
        lock: Held while the set of column families changes, while a batch that refers to some is
            written, and through a close.
    """

    __slots__ = (
        "access", "changes", "close_timeout", "directory", "dropping", "dumps", "families", "following", "identity",
        "instance", "lock", "natives", "options", "plain_tables", "raw", "settings", "spares",
    )  # fmt: skip

    name: str

    def __init__(
        self,
        name: str,
        directory: str,
        access: AccessType,
        close_timeout: float,
        policy: Policy | None,
        trace: Trace | None,
        lease: tuple[Duration, Duration],
    ) -> None:
        super().__init__(name, policy, trace)
        self.own_lease = lease
        if lease != (INHERITED, INHERITED):
            expect_leases()
        self.directory = directory
        self.identity: tuple[int, int] | str | None = None
        self.access = access
        self.changes = Changes()
        self.close_timeout = close_timeout
        self.raw = True
        self.options: Any = None
        self.families: set[str] = set()
        self.natives: dict[str, Kept] = {}
        self.spares: dict[str, dict[int, Kept]] = {}
        self.dropping: set[str] = set()
        self.following: Following | None = None
        self.instance = object()
        self.settings = object()
        self.plain_tables: frozenset[str] = frozenset()
        self.dumps: Callable[[Any], bytes] | None = None
        self.lock = threading.RLock()

    def native_family(self, main: Any, name: str) -> Any:
        """Return a native column family, which is not to be dropped before the close; under `lock`.

        Args:
            main: The native database, which is its default column family.
            name: The name of the column family.
        """
        if name == _engine.DEFAULT_FAMILY:
            return main
        found = self.natives.get(name)
        settings = self.settings  # first: those that it is made with may be newer, but not older
        if found is None or found.settings is not settings:
            found = self.natives[name] = Kept(main.get_column_family(name), settings)
            if self.closing:  # a finalizer in this thread has closed it in the midst
                self.natives.clear()
        return found.native

    def native_families(self, main: Any, names: Sequence[str]) -> tuple[Any, ...]:
        """Return native column families: those that are kept, or new ones while another thread has the lock.

        It is not waited for: a close has it, and waits in turn for snapshots that are being opened.
        """
        if not names or not self.lock.acquire(blocking=False):
            return tuple(main.get_column_family(name) for name in names)
        try:
            return tuple(self.native_family(main, name) for name in names)
        finally:
            self.lock.release()

    def spare(self, main: Any, name: str) -> Any:
        """Return a native column family for a handle to own: what another one has left, or a new one; under `lock`."""
        left = self.spares.get(name, {})
        for number in list(left):  # a finalizer may add one at any moment, and a signal handler take one
            kept = left.get(number)
            if kept is None or not _in_use.is_unused_slot(kept) or left.pop(number, None) is None:
                continue
            if kept.settings is self.settings:
                return kept.native
        return main.get_column_family(name)

    def keep(self, record: FamilyRecord, native: Any) -> None:
        """Keep what a released handle leaves for the next one of its column family; safe in finalizers.

        D25: rocksdict flushes a column family whenever an object of it is dropped, which makes an SST file.
        """
        left = self.spares.setdefault(record.family, {})
        left[record.id] = Kept(native, record.settings)  # once, though an interrupt may have it done again
        if self.following is not None:
            _drop_retired(left, native)
        # Whoever closes or drops says so first, and then takes what is kept; here it is the other way round.
        if self.closing or record.family in self.dropping:
            left.pop(record.id, None)

    def retire(self, record: InstanceRecord, native: Any) -> None:
        """Keep what a handle has had in another instance for as long as calls are under way in it (D26)."""
        if native is not None:
            family = record.family if isinstance(record, FamilyRecord) else _engine.DEFAULT_FAMILY
            left = self.spares.setdefault(family, {})
            left[-_registry.next_number()] = Kept(native, None)
            _drop_retired(left, native)

    def drop_unused_spares(self) -> None:
        """Let go of the spares that nobody refers to any more; under `lock`."""
        for left in self._left(None):
            for number in list(left):
                kept = left.get(number)
                if kept is not None and _in_use.is_unused_slot(kept):
                    left.pop(number, None)

    def wait_for_spares(self, deadline: float, name: str | None = None) -> None:
        """Wait until no call is under way in what handles have left, those of a column family or all.

        Raises:
            BusyError: If there is one at the deadline, of `time.monotonic`.
        """
        while any(self._is_spare_used(found, number) for found in self._left(name) for number in list(found)):
            if time.monotonic() >= deadline:
                raise _in_use.still_running()
            time.sleep(_PAUSE)  # calls inside RocksDB hold no lock of Python's

    def _left(self, name: str | None) -> list[dict[int, Kept]]:
        return list(self.spares.values()) if name is None else [self.spares.get(name, {})]

    def _is_spare_used(self, left: dict[int, Kept], number: int) -> bool:
        kept = left.get(number)
        # A handle that is just leaving it has it too, and is waited for by itself.
        return kept is not None and number not in self.children and not _in_use.is_unused_slot(kept)

    def check_writable(self, what: str) -> None:
        """Refuse a write through a read-only or secondary handle, before RocksDB sees it (D8).

        Raises:
            ReadOnlyError: If the database was opened so.
        """
        if not self.access.writes:
            raise ReadOnlyError(
                f"Not implemented: {what} is a write, and the database at {self.name!r} is open as "
                f"{self.access.name}; open it with AccessType.read_write() to write",
                code=3,
            )


def _drop_retired(left: dict[int, Kept], native: Any) -> None:
    """Let what a handle leaves in the midst of a catch-up be kept once: kept twice, it would look used for ever.

    Both keep it, in either order, the catch-up under a number below 0. That is what goes, whoever comes second.
    """
    same = []
    for number in list(left):  # no comprehension: its frame, which an alarm may keep, would keep what it closes over
        kept = left.get(number)
        if kept is not None and kept.native is native:
            same.append(number)
    if len(same) > 1:
        for number in same:
            if number < 0:
                left.pop(number, None)


#: Why a handle was released whose column family stays.
_REUSABLE = (Reason.EXITED, Reason.CLOSED, Reason.COLLECTED)


class InstanceRecord(HandleRecord):
    """The record of a handle that goes over to another native instance of its database (D26).

    A catch-up first sets `native`, then changes the owner's `instance`, and then unsets `live`. Here `instance` is
    read first, then `live` is set to what `native` was, and then `instance` is looked at again. So `live` never
    stays what it was before.
    """

    __slots__ = ()

    owner: DatabaseOwner  # pyright: ignore[reportIncompatibleVariableOverride] - set once

    def start(self, state: State) -> None:
        """Make the handle usable."""
        instance = self.owner.instance
        super().start(state)
        self.keep_up(instance)

    def resume(self) -> Any:
        """Return what the calls of a handle in use go through, which something has unset."""
        instance = self.owner.instance
        live = super().resume()
        self.keep_up(instance)
        return live

    def keep_up(self, instance: object) -> None:
        """Unset `live` if the handle may have gone over to another instance while it was set."""
        if self.owner.instance is not instance:
            self.disable()


class FamilyRecord(InstanceRecord):
    """The record of a column family or of a whole database.

    Attributes:
        changes: The settings that its native object was given, each by the method for it.
        family: The name of the column family.
        families: Nothing but that: what its snapshots cover, unless they are to cover more.
        is_table: Whether it is read and written through; a handle for write batches is not.
        dumps: What it encodes with what rocksdict does not store by itself.
        direct_sink: What writes go through; None, like `direct`, while the handle may not be used.
        settings: The owner's, with which its native object was made; None once it has its own.
    """

    __slots__ = ("changes", "direct_sink", "dumps", "families", "family", "is_table", "settings")

    kind = "column_family"
    guarded = False

    def __init__(self, owner: DatabaseOwner, family: str, *, is_table: bool = True) -> None:
        self.family = family
        self.families = (family,)
        self.is_table = is_table
        self.dumps: Callable[[Any], bytes] = pickle.dumps
        self.changes: dict[str, Any] = {}
        self.settings: object | None = owner.settings
        self.direct_sink: Any = None
        super().__init__(owner)

    @property
    def sink(self) -> Any:
        """What writes go through, if the handle may be used."""
        sink = self.direct_sink
        if sink is not None:
            return sink
        live = self.live
        return live if self.owner.access.writes else ReadOnlySink(self)

    @property
    def remedy(self) -> str:
        """The line to write instead."""
        return f"with saferocks.open({self.owner.name!r}) as db:"

    def before_entering(self) -> None:
        """Allow use without `with`: a column family is closed with its database."""

    def activate(self, native: Any) -> Any:
        """Return the native column family, for reading."""
        self.direct_sink = native if self.owner.access.writes else ReadOnlySink(self)
        return native

    def disable(self) -> None:
        """Let no new call start, neither reading nor writing."""
        self.direct_sink = None
        super().disable()

    def dispose(self, native: Any) -> None:
        """Keep the native column family for the next handle, if that would get one just like it."""
        if self.is_table and self.kind == "column_family" and self.reason in _REUSABLE and native is not None:
            self.owner.keep(self, native)

    def is_busy(self) -> bool:
        """Tell whether a call that let go of the interpreter lock is under way."""
        native = self.native  # once: a finalizer may release it
        return self.is_table and native is not None and _in_use.is_busy(native, self.dumps)

    def closed_error(self) -> SaferocksError:
        """Return the error for a use after release."""
        if self.reason is Reason.FORKED:
            return self.forked_error()
        if self.reason is Reason.FAMILY_DROPPED:
            return self.dropped_error()
        where = _registry.format_site(self.site)
        if self.kind == "database":
            return DatabaseClosedError(
                f"DB instance already closed: database {self.owner.name!r} opened at {where} is closed; "
                f"use it inside '{self.remedy}'"
            )
        again = self.reason in (Reason.EXITED, Reason.CLOSED) and not self.owner.closing
        advice = (
            f"get it again with db.get_column_family({self.family!r})" if again else f"use it inside '{self.remedy}'"
        )
        return DatabaseClosedError(
            f"DB instance already closed: column family {self.family!r} opened at {where} was released "
            f"{self.why()}; {advice}"
        )

    def dropped_error(self) -> ColumnFamilyDroppedError:
        """Return the error for a use of a column family that was dropped.

        D19: a write to one reaches RocksDB's log, fails, and makes every later write fail.
        """
        advice = f"create it again with db.create_column_family({self.family!r})"
        if not self.owner.access.writes:
            advice = "its primary has dropped it; db.column_families has those that there are"
        return ColumnFamilyDroppedError(
            f"Column family dropped: {self.family!r} of {self.owner.name!r}; {advice}", code=15
        )


class ReadOnlySink:
    """Stands where writes go in a read-only or secondary database, and refuses them all (D8)."""

    __slots__ = ("_record",)

    def __init__(self, record: FamilyRecord) -> None:
        self._record = record

    def __getattr__(self, name: str) -> Any:
        self._record.owner.check_writable(f"{name}()")

    def __setitem__(self, key: Any, value: Any) -> None:
        self._record.owner.check_writable("an assignment")

    def __delitem__(self, key: Any) -> None:
        self._record.owner.check_writable("a deletion")
