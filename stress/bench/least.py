"""The least that a handle can cost in Python: a class with `__enter__` and `__exit__` around the native object.

Nothing here is tracked, checked, reported or waited for. What a column of saferocks costs beyond this one is
saferocks' own; what this one costs beyond bare rocksdict is what Python takes for an object and a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stress import raw

if TYPE_CHECKING:
    from types import TracebackType


class LeastHandle:
    """A native object that is released when its block is left."""

    __slots__ = ("_native",)

    _native: Any

    def __init__(self, native: Any) -> None:
        self._native = native

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._native = None

    def __iter__(self) -> Any:
        return self._native


class LeastCursor(LeastHandle):
    """A cursor, each of whose calls is one call deeper than the native one's."""

    __slots__ = ()

    def seek(self, key: bytes) -> None:
        """Seek the first row at or after a key."""
        self._native.seek(key)

    def valid(self) -> Any:
        """Tell whether the cursor is on a row."""
        return self._native.valid()

    def key(self) -> Any:
        """Return the row's key."""
        return self._native.key()

    def value(self) -> Any:
        """Return the row's value."""
        return self._native.value()

    def next(self) -> None:
        """Move on."""
        self._native.next()


class LeastBatch(LeastHandle):
    """A batch that is written when its block is left."""

    __slots__ = ("_database",)

    def __init__(self, database: Any) -> None:
        self._native = raw.WriteBatch(raw_mode=True)
        self._database = database

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._native[key] = value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._database.write(self._native)
        self._native = None


class LeastDatabase:
    """A database whose methods pass on to the native one, and whose handles are the least ones."""

    __slots__ = ("_native",)

    _native: Any

    def __init__(self, native: Any) -> None:
        self._native = native

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, or of each key of a list."""
        return self._native.get(key, default)

    def __contains__(self, key: bytes) -> bool:
        return key in self._native

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._native[key] = value

    def __delitem__(self, key: bytes) -> None:
        del self._native[key]

    def items(self, backwards: bool = False, from_key: Any = None) -> LeastHandle:
        """Open a scan."""
        return LeastHandle(self._native.items(backwards, from_key))

    def iter(self) -> LeastCursor:
        """Open a cursor."""
        return LeastCursor(self._native.iter())

    def snapshot(self) -> LeastHandle:
        """Open a snapshot."""
        return LeastHandle(self._native.snapshot())

    def write_batch(self) -> LeastBatch:
        """Open a batch."""
        return LeastBatch(self._native)
