"""Opening a database: everything that can be refused is refused before the disk is touched."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _registry
from saferocks._instance import Following, Opened
from saferocks._options import AccessType
from saferocks._owner import DatabaseOwner
from saferocks._secondary import look, open_settled
from saferocks._settings import lease_defaults, policy_or_none, seconds, trace_or_none
from saferocks.errors import InvalidArgumentError, IOFailedError, LockedError, ModeMismatchError

if TYPE_CHECKING:
    from saferocks._engine import Options
    from saferocks._settings import Duration, Policy, Trace

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


@dataclass(frozen=True)
class Request:
    """What a caller wants opened, checked.

    Attributes:
        name: The directory, as it was given.
        path: The same, absolute: it stays right when the process changes its directory.
        options: The options given, if any.
        column_families: The column families given, if any, with their options.
        access: For reading, writing or following.
        raw_mode: The mode asked for; None takes that of the options, or of the database on disk.
        allow_pickle: Whether values may be pickled and unpickled.
        statistics: Whether RocksDB shall count.
        lock_timeout: Seconds to wait for another holder of LOCK.
        close_timeout: Seconds that a close waits for calls in flight.
        policy: The database's own policy, if any.
        trace: The database's own trace, if any.
        lease: The database's own defaults for leases, given or left out.
    """

    name: str
    path: str
    options: Options | None
    column_families: dict[str, Options] | None
    access: AccessType
    raw_mode: bool | None
    allow_pickle: bool
    statistics: bool
    lock_timeout: float
    close_timeout: float
    policy: Policy | None
    trace: Trace | None
    lease: tuple[Duration, Duration]


def check_request(
    path: Any,
    options: Any,
    column_families: Any,
    access_type: Any,
    raw_mode: Any,
    allow_pickle: Any,
    statistics: Any,
    lock_timeout: Any,
    close_timeout: Any,
    policy: Any,
    trace: Any,
    warn_after: Any,
    expire_after: Any,
) -> Request:
    """Check the arguments of an opening.

    Raises:
        TypeError: If one is of a wrong type.
        ValueError: If one has an impossible value.
        ModeMismatchError: If options and `raw_mode` disagree.
    """
    if options is not None and not isinstance(options, _engine.Options):
        raise TypeError(f"options is {type(options).__name__}; give saferocks.Options")
    families = _checked_families(column_families)
    if access_type is None:
        access_type = AccessType.read_write()
    if not isinstance(access_type, AccessType):
        raise TypeError(f"access_type is {type(access_type).__name__}; make one with saferocks.AccessType")
    if raw_mode is not None and not isinstance(raw_mode, bool):
        raise TypeError(f"raw_mode is {raw_mode!r}; give True, False, or None for the mode of the options")
    _check_modes(options, families, raw_mode)
    name = _directory.text_path(path)
    return Request(
        name=name,
        path=os.path.abspath(name),
        options=options,
        column_families=families,
        access=access_type,
        raw_mode=raw_mode,
        allow_pickle=_flag("allow_pickle", allow_pickle),
        statistics=_flag("statistics", statistics),
        lock_timeout=seconds("lock_timeout", lock_timeout, zero=True),
        close_timeout=seconds("close_timeout", close_timeout),
        policy=policy_or_none(policy),
        trace=trace_or_none(trace),
        lease=lease_defaults(warn_after, expire_after),
    )


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give True or False")
    return value


def _checked_families(given: Any) -> dict[str, Options] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"column_families is {type(given).__name__}; give a dict of names to Options")
    for name, options in given.items():
        if not isinstance(name, str) or not isinstance(options, _engine.Options):
            raise TypeError(f"column_families has {name!r}: {options!r}; give a dict of names (str) to Options")
    return dict(given)


def _check_modes(options: Any, families: dict[str, Options] | None, raw_mode: bool | None) -> None:
    """Refuse options of different modes."""
    wanted = raw_mode
    for name, each in (("options", options), *(families or {}).items()):
        if each is None:
            continue
        mode = _engine.is_raw(each)
        if wanted is None:
            wanted = mode
        elif mode != wanted:
            raise ModeMismatchError(
                f"Invalid argument: Options should have raw_mode={wanted}, but those of {name!r} have raw_mode={mode}; "
                f"make them with Options(raw_mode={wanted})",
                code=4,
            )


def open_database(request: Request, default_raw: bool) -> Opened:
    """Open a database natively.

    Args:
        request: What to open, and how.
        default_raw: The mode of a new database where neither options nor `raw_mode` say.

    Raises:
        ForkedProcessError: If this process was forked from one that had opened a database.
        EngineError: If that is not possible; the disk is then as it was.
    """
    _engine.check_process()
    if request.access.name != "secondary":
        return _open_once(request, default_raw, None)
    return _open_secondary(request, default_raw, None)


def _open_secondary(request: Request, default_raw: bool, before: Opened | None) -> Opened:
    """Open a secondary, or open it anew like before: with the same options, and so the same statistics and caches."""
    open_once = partial(_open_once, request, default_raw, before)
    opened = open_settled(request.path, request.access, open_once, again=before is not None)
    like = replace(opened, native=None)
    return replace(
        opened, following=Following(opened.seen, opened.remade, partial(_open_secondary, request, default_raw, like))
    )


def _open_once(request: Request, default_raw: bool, before: Opened | None) -> Opened:
    found = _directory.look(request.path)
    if not found.is_database and not request.access.writes:
        raise IOFailedError(
            f"IO error: No such file or directory: there is no database at {request.path!r}, and opening it as "
            f"{request.access.name} does not make one; open it with AccessType.read_write() first",
            code=5,
            subcode="No such file or directory",
        )
    raw = _mode(request, found, default_raw) if before is None else before.raw
    _directory.check_mode(found, raw)
    if request.access.writes:
        _directory.check_writable(request.path)
    with _directory.left_as_found(request.path, always=not request.access.writes):
        return _open_checked(request, found, raw, before)


def _mode(request: Request, found: _directory.Directory, default_raw: bool) -> bool:
    if request.raw_mode is not None:
        return request.raw_mode
    given = request.options or next(iter((request.column_families or {}).values()), None)
    if given is not None:
        return _engine.is_raw(given)
    return default_raw if found.raw_mode is None else found.raw_mode


def _open_checked(request: Request, found: _directory.Directory, raw: bool, before: Opened | None) -> Opened:
    seen = look(request.path)
    if before is None:
        options, families = _in_force(request, found, raw)
    else:
        options, families = before.options, _families_of_now(request, before)
    native = _open_when_unlocked(request, options, families)
    if not raw and not request.allow_pickle:
        _engine.forbid_pickle(native)
    return Opened(native, options, raw, {_engine.DEFAULT_FAMILY: options, **(families or {})}, seen)


def _families_of_now(request: Request, before: Opened) -> dict[str, Options]:
    """Return the column families to open a secondary anew with: its primary may have made and dropped some."""
    names = _engine.list_families(request.path)
    if request.column_families is not None:
        return {name: options for name, options in request.column_families.items() if name in names}
    new = {} if before.families.keys() >= set(names) else (_engine.load_options(request.path) or (None, {}))[1]
    return {name: before.families.get(name) or new.get(name, before.options) for name in names}


def _in_force(request: Request, found: _directory.Directory, raw: bool) -> tuple[Options, dict[str, Options] | None]:
    """Return the options and column families to open a database with."""
    loaded = _engine.load_options(request.path) if found.is_database else None
    options, on_disk = _options(request, loaded, raw)
    if found.is_database and request.column_families is None:
        # The MANIFEST knows which there are. The OPTIONS file may be missing, or an old one: a program that is killed
        # may have left it without one that was made, or with one that was dropped.
        loaded_families = on_disk or {}
        on_disk = {name: loaded_families.get(name, options) for name in _engine.list_families(request.path)}
    families = _engine.families_in_force(request.options, request.column_families, on_disk)
    if request.statistics:
        options.enable_statistics()
    return options, families


def _options(request: Request, loaded: Any, raw: bool) -> tuple[Options, dict[str, Options] | None]:
    """Return the options for the database, and those of the column families on disk."""
    on_disk = None if loaded is None else loaded[1]
    if on_disk and _engine.is_raw(next(iter(on_disk.values()))) != raw:
        raise InvalidArgumentError(
            f"Invalid argument: {_directory.CONFIG_NAME} of {request.path!r} says raw_mode={not raw}, but its keys are "
            f"{'raw' if raw else 'typed'}; correct that file",
            code=4,
        )
    if request.options is not None:
        return request.options, on_disk
    if request.column_families and _engine.DEFAULT_FAMILY in request.column_families and loaded is None:
        return request.column_families[_engine.DEFAULT_FAMILY], on_disk
    if loaded is None:
        return _engine.new_options(raw), on_disk
    return loaded[0], on_disk


def _open_when_unlocked(request: Request, options: Options, families: dict[str, Options] | None) -> Any:
    """Open natively, waiting up to `lock_timeout` seconds for another holder of LOCK."""
    deadline = time.monotonic() + request.lock_timeout
    pause = _FIRST_PAUSE
    while True:
        logs = _directory.old_logs(request.path)
        try:
            if request.access.writes and _opened_at(request.path) is not None:
                raise _held_here(request.path)
            return _engine.open_native(request.path, options, families, request.access.native())
        except LockedError as error:
            _directory.put_log_back(request.path, logs)
            left = deadline - time.monotonic()
            if left <= 0:
                raise _locked(error, request) from None
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)
        except IOFailedError as error:
            if "(os error " not in str(error):
                raise
            # rocksdict could not make the directory, and does not say which
            text = f"IO error: cannot make {request.path!r}: {error}; give a path in which directories can be made"
            raise IOFailedError(text, code=5) from None


def _locked(error: LockedError, request: Request) -> LockedError:
    waited = f" after waiting {request.lock_timeout:g} s" if request.lock_timeout else ""
    where = _opened_at(request.path) or "elsewhere"
    text = f"{error}{waited}; the database is open {where}: close it there, or wait for it with lock_timeout="
    return LockedError(text, code=error.code, subcode=error.subcode)


def check_not_open(path: str) -> None:
    """Refuse what would write into a database that is open for writing in this process.

    RocksDB compares paths, and LOCK keeps out other processes only: by a link both would write.

    Raises:
        LockedError: If it is open.
    """
    where = _opened_at(path)
    if where is not None:
        raise LockedError(f"{_held_here(path)}; the database is open {where}: close it there", code=5)


def _held_here(path: str) -> LockedError:
    return LockedError(f"IO error: lock hold by current process: {path}/LOCK", code=5)


def _opened_at(path: str) -> str | None:
    """Say on which line this process has opened a database for writing that is open still; None if it has not."""
    directory = _directory.identity(path)
    for record in list(_registry.records.values()):
        owner = record.owner
        # what has nothing native yet is the opening that was refused
        if record.kind != "database" or record.native is None or not isinstance(owner, DatabaseOwner):
            continue
        if not owner.access.writes:
            continue
        if owner.directory == path or (directory is not None and owner.identity == directory):
            return f"in this process, opened at {_registry.format_site(record.site)}"
    return None
