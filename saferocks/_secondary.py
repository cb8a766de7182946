"""Secondaries: opened so that they see all of their primary, and opened anew where a catch-up would lie.

RocksDB's own catch-up leaves rows in the secondary's memtables that it had read from a write-ahead log. Where the
primary has since overwritten and flushed them, they hide what is in the SST files (D26). So it is used only while the
MANIFEST is as it was, which is to say while the primary has flushed and compacted nothing; and never where that told,
at the opening, of a column family that was dropped and made again, for then it crashes (D27; one that was not opened
does no harm). Otherwise a new native instance takes the place of the old one: the database, its column families and its
checkpoints go over to it, and open scans go on in the old one, which lasts as long as they do.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _in_use, _manifest, _registry
from saferocks._instance import Following, Opened, Seen
from saferocks._interrupts import passing_over
from saferocks._life import release
from saferocks._owner import FamilyRecord, InstanceRecord
from saferocks._registry import Reason
from saferocks.errors import BusyError, CorruptionError, EngineError, IOFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._manifest import Manifest
    from saferocks._options import AccessType
    from saferocks._owner import DatabaseOwner

#: How often, and for how many seconds, a secondary is opened anew because its primary has flushed in the midst of it.
OPENING_ATTEMPTS, OPENING_SECONDS = 1000, 10.0


def look(path: str) -> Seen | None:
    """Look at the MANIFEST of a primary; None if it cannot be read."""
    try:
        name = _manifest.current_name(path)
        status = os.stat(os.path.join(path, name))
    except (OSError, CorruptionError) as error:  # the opening that follows says what it is
        if _engine.is_interrupt(error, path):  # a TimeoutError, for instance, is an OSError
            raise
        return None
    return Seen(name, status.st_size, status.st_ino, status.st_mtime_ns)


def open_settled(path: str, access: AccessType, open_once: Callable[[], Opened], *, again: bool) -> Opened:
    """Open a secondary at a moment at which its primary lets it see everything.

    RocksDB first reads the MANIFEST and then the write-ahead logs. If the primary flushes in between, a log may be gone
    whose rows are in no SST file that the MANIFEST had then: they would be missing in the midst of others.

    Args:
        path: The directory of the primary.
        access: The secondary's own directory is its argument.
        open_once: Opens it natively.
        again: Whether this process has a secondary there, whose info log need not be kept.

    Raises:
        BusyError: If the primary flushes all the time.
        EngineError: If it cannot be opened, and the primary is not to blame for that.
    """
    logs = _directory.old_logs(access.argument)
    deadline = time.monotonic() + OPENING_SECONDS
    try:
        for _ in range(OPENING_ATTEMPTS):
            opened = _try_to_open(path, open_once)
            if opened is not None:
                return opened
            if time.monotonic() >= deadline:
                break
    finally:
        _remove_old_logs(access.argument, logs, keep=0 if again else 1)
    raise BusyError(
        f"Resource busy: the primary of the secondary at {path!r} flushed again each time before it was read; "
        "try again",
        code=11,
    )


def _try_to_open(path: str, open_once: Callable[[], Opened]) -> Opened | None:
    """Open a secondary; None if its primary came in between."""
    before = look(path)
    try:
        opened = open_once()
        if look(path) == opened.seen:
            return _checked(opened, path)
    except EngineError:
        if look(path) == before:
            raise
        return None  # what was read belongs to different moments
    _in_use.close_native(opened.native, time.monotonic())
    return None


def _remove_old_logs(path: str, before: frozenset[str], keep: int) -> None:
    """Remove the info logs that openings have put aside: RocksDB never does so for a secondary."""
    for name in sorted(_directory.old_logs(path) - before)[keep:]:
        with passing_over(OSError, path=path):
            os.unlink(os.path.join(path, name))


def _checked(opened: Opened, path: str) -> Opened:
    """Refuse a secondary that shows an older state, or none, because files are damaged (D23).

    RocksDB's secondary silently goes back to the last state whose files are all whole.

    Returns:
        The secondary, with what its MANIFEST tells.

    Raises:
        CorruptionError: If files are missing; or others, because the primary has moved on in between.
    """
    try:
        files = frozenset(os.path.basename(name) for name in _engine.file_names(opened.native))
        manifest = _manifest_of(opened, path)
        expected = frozenset(file.name for file in manifest.files if file.family in opened.families)
        if files != expected:
            raise CorruptionError(
                f"Corruption: the secondary of {path!r} does not see files {sorted(expected - files)!r} that the "
                "database consists of; they are damaged or missing: restore them, or open it as read_only to be told "
                "more",
                code=2,
            )
        return replace(opened, remade=manifest.remade & opened.families.keys())
    except BaseException:
        _in_use.close_native(opened.native, time.monotonic())
        raise


def _manifest_of(opened: Opened, path: str) -> Manifest:
    """Return what the MANIFEST said when a secondary was opened."""
    if opened.seen is None:
        raise IOFailedError(f"IO error: the MANIFEST of {path!r} cannot be read", code=5)
    try:
        return _manifest.read_manifest(path, opened.seen[:2])
    except OSError as error:
        if _engine.is_interrupt(error, path):
            raise
        raise IOFailedError(f"IO error: the MANIFEST of {path!r} cannot be read: {error}", code=5) from None


def catch_up(main: FamilyRecord) -> None:
    """Let a secondary show all that its primary has written (D26).

    If that fails, the database shows what it showed before, and another catch-up may be tried. Only if the primary has
    flushed in the midst of RocksDB's own catch-up, point reads may meet rows of both states until one succeeds.

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
    if following.remade or look(path) != following.seen:
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
