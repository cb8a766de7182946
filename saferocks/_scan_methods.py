"""The reading methods that a database, a column family and a snapshot share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from saferocks import _ordering
from saferocks._options import check_read_options
from saferocks._settings import INHERITED

if TYPE_CHECKING:
    from saferocks._handle import Scope
    from saferocks._iterator import RdictIter
    from saferocks._options import ReadOptions
    from saferocks._ordering import Bounds, Key
    from saferocks._scan import RdictColumns, RdictEntities, RdictItems, RdictKeys, RdictValues
    from saferocks._settings import Duration


class ScanMethods:
    """Openers of scans and cursors; each returns a scope to be entered."""

    __slots__ = ()

    #: Whether keys and values are raw bytes.
    _raw: bool

    @abstractmethod
    def _scan(
        self,
        method: str,
        backwards: bool,
        from_key: Key,
        read_opt: ReadOptions | None,
        lower_bound: Key,
        upper_bound: Key,
        prefix: Key,
        label: str | None,
        warn_after: Duration,
        expire_after: Duration,
    ) -> Any:
        """Check the arguments of a scan and open it."""

    def _check_start(self, from_key: Key) -> None:
        if from_key is not None:
            _ordering.check_key(from_key, self._raw, "from_key")

    def _bounds(self, read_opt: ReadOptions | None, lower: Key, upper: Key, prefix: Key) -> Bounds:
        found = _ordering.bounds(self._raw, lower, upper, prefix)
        if read_opt is None:
            return found
        check_read_options(read_opt)
        if read_opt.lower_bound is None and read_opt.upper_bound is None:
            return found
        return _ordering.bounds(self._raw, read_opt.lower_bound, read_opt.upper_bound).narrowed(
            found.lower, found.upper
        )

    def items(
        self,
        backwards: bool = False,
        from_key: Key = None,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictItems]:
        """Open a scan of keys and values (`NewIterator`).

        Args:
            backwards: From the last key to the first.
            from_key: Where to start, inclusive in either direction.
            read_opt: How RocksDB reads.
            lower_bound: First key that may come out.
            upper_bound: First key that may not.
            prefix: What every key must start with (bytes, or str in a typed database).
            label: A name for it in reports.
            warn_after: Seconds after which it is overdue: warned of, and logged. None for never;
                what its database or `configure` says if left out.
            expire_after: Seconds after which it is released, likewise.

        Returns:
            A scope; enter it to iterate over `(key, value)`.

        Raises:
            TypeError: If a key or bound is of a type that the database cannot hold.
            ValueError: If a duration is not positive and finite, or `warn_after` not shorter than `expire_after`.
            NotEnteredError: When it is used without `with`, under the policy `raise`.

        Warns:
            UnscopedHandleWarning: When it is used without `with`, under the policy `warn`.
            LeakedHandleWarning: When it is collected while open.
            OverdueHandleWarning: When it has been open for longer than `warn_after`.

        Example:
            >>> import saferocks, tempfile, os
            >>> with saferocks.open(os.path.join(tempfile.mkdtemp(), "db")) as db:
            ...     db[b"user:1"], db[b"user:2"], db[b"visit:1"] = b"ann", b"bob", b"-"
            ...     with db.items(prefix=b"user:") as items:
            ...         list(items)
            [(b'user:1', b'ann'), (b'user:2', b'bob')]
        """
        scan: Scope[RdictItems] = self._scan(
            "items", backwards, from_key, read_opt, lower_bound, upper_bound, prefix, label, warn_after, expire_after
        )
        return scan

    def keys(
        self,
        backwards: bool = False,
        from_key: Key = None,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictKeys]:
        """Open a scan of keys; the arguments are those of `items`.

        Returns:
            A scope; enter it to iterate over keys.
        """
        scan: Scope[RdictKeys] = self._scan(
            "keys", backwards, from_key, read_opt, lower_bound, upper_bound, prefix, label, warn_after, expire_after
        )
        return scan

    def values(
        self,
        backwards: bool = False,
        from_key: Key = None,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictValues]:
        """Open a scan of values in the order of their keys; the arguments are those of `items`.

        Returns:
            A scope; enter it to iterate over values.
        """
        scan: Scope[RdictValues] = self._scan(
            "values", backwards, from_key, read_opt, lower_bound, upper_bound, prefix, label, warn_after, expire_after
        )
        return scan

    def columns(
        self,
        backwards: bool = False,
        from_key: Key = None,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictColumns]:
        """Open a scan of wide columns; the arguments are those of `items`.

        Returns:
            A scope; enter it to iterate over the wide columns of each row, as a list of `(name, value)`.
        """
        scan: Scope[RdictColumns] = self._scan(
            "columns", backwards, from_key, read_opt, lower_bound, upper_bound, prefix, label, warn_after, expire_after
        )
        return scan

    def entities(
        self,
        backwards: bool = False,
        from_key: Key = None,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictEntities]:
        """Open a scan of keys and wide columns; the arguments are those of `items`.

        Returns:
            A scope; enter it to iterate over `(key, columns)`, the columns as a list of `(name, value)`.
        """
        scan: Scope[RdictEntities] = self._scan(
            "entities", backwards, from_key, read_opt, lower_bound, upper_bound, prefix, label, warn_after, expire_after
        )
        return scan

    @abstractmethod
    def iter(
        self,
        read_opt: ReadOptions | None = None,
        *,
        lower_bound: Key = None,
        upper_bound: Key = None,
        prefix: Key = None,
        label: str | None = None,
        warn_after: Duration = INHERITED,
        expire_after: Duration = INHERITED,
    ) -> Scope[RdictIter]:
        """Open a cursor (`NewIterator`); the arguments are those of `items`.

        Returns:
            A scope; enter it to seek, step and read.
        """
