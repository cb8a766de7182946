"""Column families as write batches name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saferocks._handle import Handle, blank, open_handle
from saferocks._owner import FamilyRecord

if TYPE_CHECKING:
    from collections.abc import Callable


class ColumnFamily(Handle[FamilyRecord]):
    """A column family as write batches name it (`ColumnFamilyHandle`).

    From `db.get_column_family_handle(name)`; it is closed with its database.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the column family."""
        return self._record.family

    def _native(self) -> Any:
        return self._record.live


def open_family_handle(parent: Any, record: FamilyRecord, acquire: Callable[[], Any]) -> ColumnFamily:
    """Open the handle that batches take."""
    family = blank(ColumnFamily)
    open_handle(family, parent, record).acquire(acquire)
    return family
