"""The methods by which a database gives, makes and drops its column families."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine, _in_use, _registry
from saferocks._column_family import FamilyAccess
from saferocks._family_handle import ColumnFamily, open_family_handle
from saferocks._handle import open_handle
from saferocks._life import release, wait_until_unused
from saferocks._owner import FamilyRecord
from saferocks._registry import Reason
from saferocks.errors import ColumnFamilyNotFoundError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from saferocks._engine import Options

#: How long a drop waits for calls that still use the column family.
_DROP_SECONDS = 30.0


class FamilyMethods(FamilyAccess):
    """Openers of column families."""

    __slots__ = ()

    @property
    @abstractmethod
    def _main(self) -> Any:
        """The database, from one of its column families too."""

    @abstractmethod
    def _another(self) -> Self:
        """Return a new object of this class, to become a column family."""

    @property
    def column_families(self) -> tuple[str, ...]:
        """The names of the column families, `default` among them, in alphabetical order."""
        self._record.live
        return tuple(sorted(self._record.owner.families))

    def get_column_family(self, name: str) -> Self:
        """Return a column family, for reading and writing; it is closed with its database.

        Args:
            name: Its name.

        Raises:
            ColumnFamilyNotFoundError: If the database has none of that name.
        """
        self._check_family(name)  # before the lock, which a close holds
        with self._record.owner.lock:  # so that it is not dropped in between
            self._check_family(name)
            return self._family(name, lambda main: self._record.owner.spare(main, name))

    def get_column_family_handle(self, name: str) -> ColumnFamily:
        """Return a column family as write batches name it; it is closed with its database.

        Args:
            name: Its name.

        Raises:
            ColumnFamilyNotFoundError: If the database has none of that name.
        """
        main = self._main
        self._check_family(name)
        with self._record.owner.lock:
            self._check_family(name)
            record = FamilyRecord(self._record.owner, name, is_table=False)
            return open_family_handle(main, record, lambda: main._record.live.get_column_family_handle(name))

    def create_column_family(self, name: str, options: Options | None = None) -> Self:
        """Make a column family (`CreateColumnFamily`).

        Args:
            name: Its name.
            options: Its options; rocksdict's defaults in the mode of this database if left out.

        Returns:
            The column family, for reading and writing; it is closed with its database.

        Raises:
            InvalidArgumentError: If there is one of that name.
            ModeMismatchError: If the options are of the other mode.
            ReadOnlyError: If the database is open for reading: made through such a handle, it
                would destroy data of the primary (D8).

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
            ...     users = db.create_column_family("users")
            ...     users[b"1"] = b"ann"
            ...     db.column_families, b"1" in db, users[b"1"]
            (('default', 'users'), False, b'ann')
        """
        owner = self._record.owner
        self._record.live
        owner.check_writable("create_column_family()")
        check_name(name)
        with owner.lock:
            self._record.live
            if name in owner.families:
                raise InvalidArgumentError(f"Invalid argument: Column family already exists: {name!r}", code=4)
            options = _engine.new_options(owner.raw) if options is None else options
            family = self._family(name, lambda main: main.create_column_family(name, options))
            owner.families.add(name)
            owner.plain_tables = _directory.plain_tables(owner.directory)
        return family

    def drop_column_family(self, name: str) -> None:
        """Delete a column family and its rows (`DropColumnFamily`).

        Handles of it raise ColumnFamilyDroppedError from then on; open scans of it go on.

        Args:
            name: Its name.

        Raises:
            ColumnFamilyNotFoundError: If there is none of that name.
            InvalidArgumentError: If it is the default one, which cannot be dropped.
            BusyError: If a call on it does not end in time; it is not dropped then.
        """
        owner = self._record.owner
        self._record.live
        owner.check_writable("drop_column_family()")
        if name == _engine.DEFAULT_FAMILY:  # D13: rocksdict fails, and loses its handle all the same
            raise InvalidArgumentError("Invalid argument: Can't drop default column family", code=4)
        with owner.lock:
            if check_name(name) not in owner.families:
                raise self._not_found(f"Invalid column family: {name}", name)
            try:
                owner.dropping.add(name)
                deadline = time.monotonic() + _DROP_SECONDS
                owner.wait_for_spares(deadline, name)
                owner.spares.pop(name, None)
                self._release_family(name, deadline)
                owner.natives.pop(name, None)
                _engine.call(self._main._record.live.drop_column_family, name)
                owner.families.discard(name)
                owner.natives.pop(name, None)  # a signal handler may have asked in between
            finally:
                owner.dropping.discard(name)

    def _release_family(self, name: str, deadline: float) -> None:
        """Release all handles of a column family, so that no write can reach it once it is dropped (D19)."""
        for record in reversed(_registry.in_order(self._record.owner.children)):
            if isinstance(record, FamilyRecord) and record.family == name and record.kind == "column_family":
                natives = _in_use.natives_in(record.native)
                release(record, Reason.FAMILY_DROPPED)
                wait_until_unused(natives, deadline)

    def _family(self, name: str, acquire: Callable[[Any], Any]) -> Self:
        family, main = self._another(), self._main
        family._raw = self._raw
        record = open_handle(family, main, FamilyRecord(self._record.owner, name))
        record.dumps, record.changes = main._record.dumps, main._record.changes
        record.acquire(lambda: acquire(main._record.live))
        if name != _engine.DEFAULT_FAMILY:  # which cannot be dropped
            # D22: an iterator keeps a bare pointer to its column family, and follows it in each seek.
            record.keeper = _engine.call(lambda: main._record.live.get_column_family_handle(name))
        return family

    def _check_family(self, name: str) -> None:
        check_name(name)
        self._record.live
        if name not in self._record.owner.families:
            raise self._not_found(f"column name `{name}` does not exist, use `create_cf` to creat it", name)

    def _not_found(self, text: str, name: str) -> ColumnFamilyNotFoundError:
        """Return the error for an unknown name, which starts with rocksdict's own text."""
        known = ", ".join(map(repr, self.column_families))
        return ColumnFamilyNotFoundError(
            f"{text}: the database at {self._record.owner.name!r} has {known}; make it with "
            f"db.create_column_family({name!r})"
        )


def check_name(name: Any) -> str:
    """Return the name of a column family if it is text, else raise TypeError."""
    if not isinstance(name, str):
        raise TypeError(f"column family {name!r} is {type(name).__name__}; give its name as str")
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"column family {name!r} holds a NUL or what is no character; give another name")
    return name
