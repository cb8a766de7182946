"""Read options with bounds that hold, and ways to access a database.

All other option classes are rocksdict's own, passed through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saferocks import _directory, _engine

if TYPE_CHECKING:
    from saferocks._directory import StrPath

_HINTS = frozenset(
    {
        "fill_cache",
        "set_async_io",
        "set_background_purge_on_iterator_cleanup",
        "set_pin_data",
        "set_readahead_size",
        "set_total_order_seek",
        "set_verify_checksums",
    }
)


class ReadOptions:
    """How RocksDB reads (`ReadOptions`).

    Has rocksdict's methods. Bounds are kept here and enforced by saferocks: in rocksdict the
    lower bound sets the upper one and the upper one points into memory that is gone.
    Scans use `total_order_seek` unless told otherwise, so that a prefix extractor loses no rows.

    Example:
        >>> import saferocks
        >>> options = saferocks.ReadOptions()
        >>> options.set_iterate_upper_bound(b"m")
        >>> options.set_readahead_size(2 << 20)
    """

    __slots__ = ("_lower", "_native", "_settings", "_upper")

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._lower: Any = None
        self._upper: Any = None
        self._native: Any = TOTAL_ORDER

    def _set(self, name: str, value: Any) -> None:
        trial = {**self._settings, name: value}
        native = _engine.read_options(_total_order(trial).items())  # refuses values of a wrong type
        self._settings, self._native = trial, native

    def fill_cache(self, v: bool = True) -> None:
        """Put blocks that scans read into the block cache, or not (`fill_cache`).

        Args:
            v: Whether to.
        """
        self._set("fill_cache", v)

    def set_async_io(self, v: bool) -> None:
        """Read ahead asynchronously, or not (`async_io`).

        Args:
            v: Whether to.
        """
        self._set("set_async_io", v)

    def set_background_purge_on_iterator_cleanup(self, v: bool) -> None:
        """Leave deleting the files that a scan kept to a background thread (`background_purge_on_iterator_cleanup`).

        Args:
            v: Whether to; else the scan's release deletes them.
        """
        self._set("set_background_purge_on_iterator_cleanup", v)

    def set_iterate_lower_bound(self, key: Any) -> None:
        """Let scans return no key before this one (`iterate_lower_bound`).

        Args:
            key: The first key that may come out; None takes the bound away.
        """
        self._lower = key

    def set_iterate_upper_bound(self, key: Any) -> None:
        """Let scans return this key no more, nor any after it (`iterate_upper_bound`).

        Args:
            key: The first key that may not come out; None takes the bound away.
        """
        self._upper = key

    def set_max_skippable_internal_keys(self, num: int) -> None:
        """Limit how long a seek passes over what was deleted (`max_skippable_internal_keys`).

        Args:
            num: After how many deleted or overwritten keys it gives up with IncompleteError; 0 for never.
        """
        self._set("set_max_skippable_internal_keys", num)

    def set_pin_data(self, v: bool) -> None:
        """Keep blocks in memory for as long as the iterator lives, or not (`pin_data`).

        Args:
            v: Whether to.
        """
        self._set("set_pin_data", v)

    def set_prefix_same_as_start(self, v: bool) -> None:
        """End scans with the prefix of the key that they sought, or not (`prefix_same_as_start`).

        Args:
            v: Whether to.
        """
        self._set("set_prefix_same_as_start", v)

    def set_readahead_size(self, v: int) -> None:
        """Read ahead on disk (`readahead_size`).

        Args:
            v: How many bytes.
        """
        self._set("set_readahead_size", v)

    def set_tailing(self, v: bool) -> None:
        """Let iterators see later writes, or not (`tailing`); for `iter()` only.

        Args:
            v: Whether to.
        """
        self._set("set_tailing", v)

    def set_total_order_seek(self, v: bool) -> None:
        """Let seeks ignore the prefix extractor, or not (`total_order_seek`).

        Args:
            v: Whether to; they do unless told otherwise.
        """
        self._set("set_total_order_seek", v)

    def set_verify_checksums(self, v: bool) -> None:
        """Verify checksums on reading, or not (`verify_checksums`).

        Args:
            v: Whether to.
        """
        self._set("set_verify_checksums", v)

    @property
    def lower_bound(self) -> Any:
        """The lower bound, or None."""
        return self._lower

    @property
    def upper_bound(self) -> Any:
        """The upper bound, or None."""
        return self._upper

    @property
    def tailing(self) -> bool:
        """Whether the iterator shall see later writes."""
        return bool(self._settings.get("set_tailing"))

    @property
    def beyond_hints(self) -> tuple[str, ...]:
        """The settings that change what is returned, and not only how fast."""
        return tuple(name for name, value in self._settings.items() if value and name not in _HINTS)

    def native(self) -> Any:
        """Return the native options, without bounds."""
        return self._native


def _total_order(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask for total order unless the caller chose (D20: a prefix extractor makes scans lose rows)."""
    if "set_total_order_seek" in settings or settings.get("set_prefix_same_as_start"):
        return settings
    return {**settings, "set_total_order_seek": True}


#: Native options for reading without options of one's own; rocksdict copies them at each opening.
TOTAL_ORDER: Any = _engine.read_options(_total_order({}).items())
_AS_ROCKSDB: Any = _engine.read_options(())


def scan_options(read_opt: ReadOptions | None, plain_table: bool) -> Any:
    """Return the native options to scan with.

    Args:
        read_opt: The caller's, if any.
        plain_table: Whether the column family is kept in plain tables, which refuse total order.

    Raises:
        TypeError: If `read_opt` is not saferocks' own class.
    """
    if read_opt is None:
        return _AS_ROCKSDB if plain_table else TOTAL_ORDER
    if plain_table and "set_total_order_seek" not in check_read_options(read_opt)._settings:
        return _engine.read_options(read_opt._settings.items())
    return check_read_options(read_opt).native()


def check_read_options(read_opt: Any) -> ReadOptions:
    """Return `read_opt` if it is saferocks' own, else raise TypeError."""
    if not isinstance(read_opt, ReadOptions):
        raise TypeError(f"read_opt is {type(read_opt).__name__}; use saferocks.ReadOptions, whose bounds hold")
    return read_opt


_LONGEST_TTL = 2**31 - 1


@dataclass(frozen=True)
class AccessType:
    """How a database is opened; make one with the static methods.

    Example:
        >>> import saferocks, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "db")
        >>> with saferocks.open(path) as db:
        ...     db[b"k"] = b"v"
        >>> with saferocks.open(path, access_type=saferocks.AccessType.read_only()) as db:
        ...     db[b"k"]
        b'v'

    Attributes:
        name: `read_write`, `read_only`, `secondary` or `with_ttl`.
        argument: The argument of that way, if it takes one.
    """

    name: str
    argument: Any = None

    @staticmethod
    def read_write() -> AccessType:
        """Return what opens for reading and writing; one process at a time."""
        return AccessType("read_write")

    @staticmethod
    def read_only(error_if_log_file_exist: bool = False) -> AccessType:
        """Return what opens for reading what is on disk now, also while another process has the database open.

        Args:
            error_if_log_file_exist: Refuse a database with a write-ahead log that was not flushed.
        """
        return AccessType("read_only", bool(error_if_log_file_exist))

    @staticmethod
    def secondary(secondary_path: StrPath) -> AccessType:
        """Return what opens for following a primary with `try_catch_up_with_primary`.

        Args:
            secondary_path: A directory for the secondary's own info log.
        """
        return AccessType("secondary", _directory.text_path(secondary_path))

    @staticmethod
    def with_ttl(duration: int) -> AccessType:
        """Return what opens for reading and writing rows that compaction may drop once they are old.

        Once with, always with: each value carries a time stamp of four bytes on disk. Opened without
        this, they are part of the value; and values that were written without it lose their last
        four bytes to it, if they have as many. RocksDB does not notice either.

        A snapshot does not protect rows whose time has run out. Compaction drops them, and then its
        point reads no longer find what its scans still show. The rows of a column family that was
        made since the database was opened do not expire before it is opened again.

        Args:
            duration: Seconds; from 1 to 2**31 - 1.

        Raises:
            ValueError: If the duration is out of that range.
        """
        if type(duration) is not int:
            raise TypeError(f"duration {duration!r} is {type(duration).__name__}; give whole seconds")
        if not 0 < duration <= _LONGEST_TTL:  # RocksDB keeps 32 bits, and drops the others in silence
            raise ValueError(f"duration is {duration}; give a positive number of seconds, at most {_LONGEST_TTL}")
        return AccessType("with_ttl", duration)

    @property
    def writes(self) -> bool:
        """Whether the database may be written through this access."""
        return self.name in ("read_write", "with_ttl")

    def native(self) -> Callable[[Any], Any]:
        """Return a function that makes rocksdict's access type from rocksdict's class."""
        arguments = () if self.argument is None else (self.argument,)
        return lambda access: getattr(access, self.name)(*arguments)
