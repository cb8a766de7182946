"""The order of keys, and the bounds of a scan.

Raw databases order keys as bytes. Typed ones order by type first (bytes < str < int < float <
bool), then ints by value, strings by their UTF-8 bytes, which is the order of their code points,
and floats by their big-endian bytes, which puts negative floats after positive ones.

Bounds are kept and compared here, in Python: RocksDB keeps only a pointer to a bound, and
rocksdict lets go of what it points to (D3), and its lower bound sets the upper one (D2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from saferocks.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Key = Any  # bytes in a raw database; bytes, str, int, float or bool in a typed one

_KEY_TYPES = (bytes, str, int, float, bool)
_LAST_CODE_POINT = 0x10FFFF
_FIRST_SURROGATE, _AFTER_SURROGATES = 0xD800, 0xE000


def typed_order(key: Key) -> tuple[int, Any]:
    """Return a value that sorts as the comparator `rocksdict` sorts `key`."""
    if isinstance(key, bool):
        return 4, key
    if isinstance(key, bytes):
        return 0, key
    if isinstance(key, str):
        return 1, key
    if isinstance(key, int):
        return 2, key
    return 3, struct.pack(">d", key)


def _raw_order(key: Key) -> Key:
    return key


def check_key(key: Key, raw: bool, what: str = "key") -> None:
    """Raise TypeError unless `key` is of a type that the database can hold as a key."""
    if raw and not isinstance(key, bytes):
        raise TypeError(
            f"{what} {key!r} is {type(key).__name__}, but this database holds raw bytes; "
            "encode it, or open a typed database with raw_mode=False"
        )
    if not raw and not isinstance(key, _KEY_TYPES):
        raise TypeError(
            f"{what} {key!r} is {type(key).__name__}; a typed database takes bytes, str, int, float and bool as keys"
        )


def check_keys(keys: Iterable[Key]) -> list[Key]:
    """Return several keys as a list, or raise TypeError if they are one key, or no keys at all."""
    if isinstance(keys, (bytes, bytearray, str)):
        raise TypeError(f"keys is {keys!r}, one key; give a list of keys")
    try:
        return list(keys)
    except TypeError:
        if hasattr(type(keys), "__iter__"):  # it is the caller's own that failed
            raise
        raise TypeError(f"keys is {keys!r}; give a list of keys") from None


def prefix_end(prefix: bytes | str) -> bytes | str | None:
    """Return the first key after all keys that start with `prefix`, or None if there is no such key."""
    if isinstance(prefix, bytes):
        head = prefix.rstrip(b"\xff")
        return head[:-1] + bytes((head[-1] + 1,)) if head else None
    head_text = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not head_text:
        return None
    following = ord(head_text[-1]) + 1
    if following == _FIRST_SURROGATE:  # surrogates are no characters: UTF-8 has no bytes for them
        following = _AFTER_SURROGATES
    return head_text[:-1] + chr(following)


@dataclass(frozen=True)
class Bounds:
    """Where a scan may go: `lower <= key < upper`; None leaves that end open.

    Attributes:
        is_open: Whether both ends are open.
    """

    lower: Key = None
    upper: Key = None
    raw: bool = True
    is_open: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_open", self.lower is None and self.upper is None)

    @property
    def order(self) -> Callable[[Key], Any]:
        """The function whose values sort as this database sorts its keys."""
        return _raw_order if self.raw else typed_order

    def below(self) -> Callable[[Key], bool] | None:
        """Return a test for keys before the lower bound, or None without one."""
        if self.lower is None:
            return None
        if self.raw:
            # A bound C method: a third of the time of a Python function in a scan's inner loop.
            greater: Callable[[Key], bool] = self.lower.__gt__
            return greater
        limit = typed_order(self.lower)
        return lambda key: typed_order(key) < limit

    def above(self) -> Callable[[Key], bool] | None:
        """Return a test for keys at or after the upper bound, or None without one."""
        if self.upper is None:
            return None
        if self.raw:
            at_most: Callable[[Key], bool] = self.upper.__le__
            return at_most
        limit = typed_order(self.upper)
        return lambda key: typed_order(key) >= limit

    def start(self, backwards: bool, from_key: Key) -> Key:
        """Return the key to seek to first, or None for the very first (or last) key."""
        limit = self.upper if backwards else self.lower
        if limit is None or from_key is None:
            return from_key if limit is None else limit
        nearer = self.order(from_key) < self.order(limit) if backwards else self.order(from_key) > self.order(limit)
        return from_key if nearer else limit

    def narrowed(self, lower: Key, upper: Key) -> Bounds:
        """Return the intersection with another pair of bounds."""
        if lower is None or (self.lower is not None and self.order(self.lower) > self.order(lower)):
            lower = self.lower
        if upper is None or (self.upper is not None and self.order(self.upper) < self.order(upper)):
            upper = self.upper
        return Bounds(lower, upper, self.raw)


#: Bounds of a scan of everything.
UNBOUNDED_RAW, UNBOUNDED_TYPED = Bounds(raw=True), Bounds(raw=False)


def bounds(raw: bool, lower: Key = None, upper: Key = None, prefix: Key = None) -> Bounds:
    """Check and combine the bounds of a scan.

    Args:
        raw: Whether the database holds raw bytes.
        lower: First key that may come out (`iterate_lower_bound`).
        upper: First key that may not (`iterate_upper_bound`).
        prefix: What every key must start with; bytes, or str in a typed database.

    Raises:
        TypeError: If a bound is of a type that the database cannot hold as a key.
        ValueError: If a prefix is empty in a typed database, or nothing can follow it.
    """
    if lower is None and upper is None and prefix is None:
        return UNBOUNDED_RAW if raw else UNBOUNDED_TYPED
    if lower is not None:
        check_key(lower, raw, "lower_bound")
    if upper is not None:
        check_key(upper, raw, "upper_bound")
    found = Bounds(lower, upper, raw)
    return found if prefix is None else found.narrowed(*_prefix_bounds(prefix, raw))


def _prefix_bounds(prefix: Key, raw: bool) -> tuple[Key, Key]:
    check_key(prefix, raw, "prefix")
    if not isinstance(prefix, (bytes, str)):
        raise TypeError(f"prefix {prefix!r} is {type(prefix).__name__}; only bytes and str keys have prefixes")
    end = prefix_end(prefix)
    if raw or (prefix and end is not None):
        return prefix, end
    if prefix and isinstance(prefix, bytes):
        return prefix, ""  # the least str is the first key after all bytes
    raise ValueError(f"prefix {prefix!r} does not narrow a typed scan; give at least one character")


def check_range(raw: bool, begin: Key, end: Key) -> None:
    """Refuse a reversed range (D18: RocksDB logs it, fails, and then fails every later write).

    Raises:
        InvalidArgumentError: If `end` comes before `begin`.
    """
    check_key(begin, raw, "begin")
    check_key(end, raw, "end")
    order = Bounds(raw=raw).order
    if order(end) < order(begin):
        raise InvalidArgumentError(
            f"Invalid argument: end key comes before start key: {end!r} < {begin!r}; nothing was deleted", code=4
        )
