"""Secondaries: opened so that they see all of their primary, and opened anew where a catch-up would lie (D23, D26).

RocksDB's own catch-up leaves rows in the secondary's memtables that it had read from a write-ahead log. Where the
primary has since overwritten and flushed them, they hide what is in the SST files. So it is used only while the
MANIFEST is as it was, which is to say while the primary has flushed and compacted nothing. Otherwise a new native
instance takes the place of the old one: the database, its column families and its checkpoints go over to it, and
open scans go on in the old one, which lasts as long as they do.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _in_use, _manifest, _registry
from saferocks._handle import release
from saferocks._options import AccessType
from saferocks._owner import FamilyRecord, InstanceRecord
from saferocks._registry import Reason
from saferocks.errors import BusyError, CorruptionError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._engine import Options
    from saferocks._owner import DatabaseOwner

#: How often a secondary is opened anew because its primary has deleted logs meanwhile, before the caller hears of it.
OPENING_ATTEMPTS = 100


@dataclass(frozen=True)
class Seen:
    """What of a primary's directory tells whether it has changed other than by writing to its log.

    Attributes:
        manifest: The name of the MANIFEST, with its file's number, size and time; None if it cannot be read.
        logs: The names of the write-ahead logs.
    """

    manifest: tuple[str, int, int, int] | None
    logs: frozenset[str]

    def is_whole(self, now: Seen) -> bool:
        """Tell whether an opening has found all logs that it needed, by a look before it and one after it.

        A log goes once the MANIFEST says that it was flushed. An opening that has read the MANIFEST before that, and
        comes to the logs after it, has rows of neither.
        """
        return self.manifest == now.manifest or (bool(self.logs) and self.logs <= now.logs)


def look(path: str) -> Seen:
    """Look at the directory of a primary; its files may change at any moment."""
    try:
        name = _manifest.current_name(path)
        status = os.stat(os.path.join(path, name))
        logs = frozenset(each for each in os.listdir(path) if each.endswith(".log"))
    except (OSError, CorruptionError):  # the opening that follows says what it is
        return Seen(None, frozenset())
    return Seen((name, status.st_ino, status.st_size, status.st_mtime_ns), logs)


@dataclass(frozen=True)
class Opened:
    """An open native database.

    Attributes:
        native: The native object.
        options: The options in force for the database and its default column family.
        raw: Whether it holds raw bytes.
        families: The options of the column families that it was opened with, by name.
        following: For a secondary: how it goes on.
    """

    native: Any
    options: Options
    raw: bool
    families: dict[str, Options]
    following: Following | None = None


@dataclass(frozen=True)
class Following:
    """How a secondary goes on.

    Attributes:
        seen: What its primary's directory was like before it was opened.
        open_anew: Opens another native instance of it.
    """

    seen: Seen
    open_anew: Callable[[], Opened]


def open_settled(path: str, access: AccessType, open_once: Callable[[], Opened], *, again: bool) -> tuple[Opened, Seen]:
    """Open a secondary at a moment at which its primary lets it see everything.

    Args:
        path: The directory of the primary.
        access: The secondary's own directory is its argument.
        open_once: Opens it natively.
        again: Whether this process has a secondary there, whose info log need not be kept.

    Returns:
        It, and what the directory of the primary was like before.

    Raises:
        BusyError: If the primary has flushed on each of `OPENING_ATTEMPTS` tries.
        EngineError: If it cannot be opened, and the primary is not to blame for that.
    """
    logs = _directory.old_logs(access.argument)
    try:
        return _open_settled(path, open_once)
    finally:
        _remove_old_logs(access.argument, logs, keep=0 if again else 1)


def _open_settled(path: str, open_once: Callable[[], Opened]) -> tuple[Opened, Seen]:
    for _ in range(OPENING_ATTEMPTS):
        seen = look(path)
        try:
            opened = open_once()
        except EngineError:
            if look(path) == seen:
                raise
            continue  # what was read belongs to different moments
        if seen.is_whole(look(path)):
            return opened, seen
        _in_use.close_native(opened.native, time.monotonic())
    raise BusyError(
        f"Resource busy: the primary of the secondary at {path!r} flushed on each of {OPENING_ATTEMPTS} tries to open "
        "it; try again",
        code=11,
    )


def _remove_old_logs(path: str, before: frozenset[str], keep: int) -> None:
    """Remove the info logs that openings have put aside: RocksDB never does so for a secondary."""
    for name in sorted(_directory.old_logs(path) - before)[keep:]:
        with suppress(OSError):
            os.unlink(os.path.join(path, name))


def check_whole(native: Any, path: str, options: Options, families: dict[str, Options] | None) -> None:
    """Refuse a secondary that shows an older state, or none, because files are damaged (D23).

    RocksDB's secondary silently goes back to the last state whose files are all whole. Opened for
    reading, the same database fails, or has other files.

    Raises:
        CorruptionError: If files are missing; or others, because the primary has moved on in between.
    """
    primary = _engine.open_native(path, options, families, AccessType.read_only().native())
    try:
        files, expected = _engine.file_names(native), _engine.file_names(primary)
    finally:
        _in_use.close_native(primary, time.monotonic())
    if files != expected:
        raise CorruptionError(
            f"Corruption: the secondary of {path!r} does not see files {sorted(expected - files)!r} that the "
            "database consists of; they are damaged or missing: restore them, or open it as read_only to be told more",
            code=2,
        )


def catch_up(main: FamilyRecord) -> None:
    """Let a secondary show all that its primary has written (D26).

    If that fails, the database shows what it showed before, and another catch-up may be tried.

    Args:
        main: The record of the database.

    Raises:
        DatabaseClosedError: If it is closed, or was while this waited.
        NotSupportedError: If it is no secondary.
        EngineError: If the primary cannot be read.
    """
    with main.owner.lock:  # no close, no other catch-up, and nothing that would have to go over comes in between
        main.live
        main.owner.changes.make(lambda: _catch_up(main))


def _catch_up(main: FamilyRecord) -> None:
    following = main.owner.following
    if following is None:
        _engine.call(main.live.try_catch_up_with_primary)  # which refuses
    elif not _catch_up_in_place(main, following):
        _engine.call(_open_anew, main, following)  # and so no error keeps what is native


def _catch_up_in_place(main: FamilyRecord, following: Following) -> bool:
    """Let RocksDB catch up; False where the database has to be opened anew."""
    path = main.owner.directory
    if look(path) != following.seen:
        return False
    try:
        _engine.call(main.live.try_catch_up_with_primary)
    except EngineError:
        if look(path) == following.seen:
            raise
        return False
    return look(path) == following.seen


def _open_anew(main: FamilyRecord, following: Following) -> None:
    owner = main.owner
    opened = following.open_anew()
    heirs = [(record, *_native_for(record, opened.native)) for record in _lasting(owner, opened)]
    _take_over(owner, heirs)
    _drop_families(owner, opened)
    if main.reason is None:  # a signal handler may have closed it
        owner.following = opened.following
    owner.drop_unused_spares()


def _lasting(owner: DatabaseOwner, opened: Opened) -> list[InstanceRecord]:
    """List what goes over to a new instance, the database last.

    Column families begin with the settings of the database, so those are given to it after they have been made.
    """
    return [
        record
        for record in reversed(_registry.in_order(owner.children))
        if isinstance(record, InstanceRecord)
        and record.native is not None
        and not (isinstance(record, FamilyRecord) and record.family not in opened.families)
    ]


def _native_for(record: InstanceRecord, main: Any) -> tuple[Any, Any]:
    """Return what a handle will have in another instance: its native object, and what that needs to be kept."""
    if not isinstance(record, FamilyRecord):
        return _engine.new_checkpoint(main), None
    if not record.is_table:
        return main.get_column_family_handle(record.family), None
    native = main if record.kind == "database" else main.get_column_family(record.family)
    for method, value in record.changes.items():
        getattr(native, method)(value)
    return native, None if record.keeper is None else main.get_column_family_handle(record.family)


def _take_over(owner: DatabaseOwner, heirs: list[tuple[InstanceRecord, Any, Any]]) -> None:
    """Give handles what they have in a new instance; calls that are under way end in the old one.

    No call is waited for. What the old instance leaves is kept with the spares until nobody refers to it, so that a
    close waits for those calls too.
    """
    owner.settings = object()  # what is released from now on is not for new handles
    owner.natives.clear()
    try:
        for record, native, keeper in heirs:
            left = record.native
            record.native, record.keeper = native, keeper
            if record.reason is not None:  # released meanwhile: that comes either before or after both
                record.native = record.keeper = None
            owner.retire(record, left)
            del left
    finally:  # what an interrupt has left half done, the next catch-up does again
        owner.instance = object()  # first: see `InstanceRecord`
        for record, _, _ in heirs:
            record.disable()


def _drop_families(owner: DatabaseOwner, opened: Opened) -> None:
    """Release the handles of column families that the primary has dropped; their open scans go on."""
    owner.plain_tables = _directory.plain_tables(owner.directory)
    owner.families = set(opened.families)
    for record in reversed(_registry.in_order(owner.children)):
        if isinstance(record, FamilyRecord) and record.family not in owner.families:
            release(record, Reason.FAMILY_DROPPED)
