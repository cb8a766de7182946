"""What events tell of a handle: the fields that all of them have, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saferocks import _registry, _watch

if TYPE_CHECKING:
    from saferocks._registry import Record


def fields_of(
    record: Record, *, age: float | None = None, count: int = 1, thread: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the fields of an event of one handle; safe in finalizers.

    Args:
        record: The handle's.
        age: For how many seconds it has been open, if that is to be told by another clock.
        count: Which one of its line it is.
        thread: The name of the opening thread, if it is known.
        **more: Further fields.
    """
    return {
        "kind": record.kind,
        "database": record.owner.name,
        "opened_at": _registry.format_site(record.site),
        "age": round(record.age if age is None else age, 3),
        "count": count,
        "label": record.label,
        "thread": thread or _watch.thread_name(record.thread),
        **more,
    }
