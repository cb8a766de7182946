"""An open native database: what it was opened with, and how a secondary goes on from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from saferocks._engine import Options


class Seen(NamedTuple):
    """What tells whether a primary has done anything but to write to its log.

    Attributes:
        name: The name of its MANIFEST.
        size: The size of that.
        number: The number of the file.
        changed: When it was changed last, in nanoseconds.
    """

    name: str
    size: int
    number: int
    changed: int


@dataclass(frozen=True)
class Opened:
    """An open native database.

    Attributes:
        native: The native object.
        options: The options in force for the database and its default column family.
        raw: Whether it holds raw bytes.
        families: The options of the column families that it was opened with, by name.
        seen: What its MANIFEST was like just before it was opened.
        remade: The column families of a secondary that had been dropped and made again by then.
        following: For a secondary: how it goes on.
    """

    native: Any
    options: Options
    raw: bool
    families: dict[str, Options]
    seen: Seen | None
    remade: frozenset[str] = frozenset()
    following: Following | None = None


@dataclass(frozen=True)
class Following:
    """How a secondary goes on.

    Attributes:
        seen: What its primary's MANIFEST was like before it was opened.
        remade: The column families that had been dropped and made again by then: with any, RocksDB's own catch-up
            crashes (D27).
        open_anew: Opens another native instance of it.
    """

    seen: Seen | None
    remade: frozenset[str]
    open_anew: Callable[[], Opened]
