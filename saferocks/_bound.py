"""What structlog's context variables held when a handle was opened: the request, the job, the user.

Each opening asks, so programs without structlog pay one look at `sys.modules`, and those that have bound
nothing a call. What is kept of a variable is only what cannot lead back to a handle: the record in the
registry is what keeps it, and a handle that its own record keeps is never collected, and never found to
have leaked. So neither a `contextvars.Context` is kept nor a value of any other type than plain ones.

It is kept beside the records and not in them, since most have none: by the handle's id, from its opening
to its release. A lease and a tally tell of a handle that may have been released, and have copies.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Names and values of context variables, as structlog has bound them.
Bound = tuple[tuple[str, Any], ...]

#: What was bound when the handles were opened that are open, by their ids; only where something was. Each step
#: is one operation on the dict, so finalizers may take it too.
kept: dict[int, Bound] = {}
#: `sys.modules`, which every opening looks at.
modules = sys.modules
_PREFIX = "structlog_"
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
#: What makes a plain value of one whose type derives from these, and may have attributes that lead anywhere.
_PLAIN_PARTS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
#: Further types whose values cannot lead to a handle, by name: importing them would cost who has none.
_PLAIN_NAMES = frozenset(
    {"uuid.UUID", "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "decimal.Decimal"}
)


def bound() -> Bound:
    """Return what is bound to structlog's context variables at this moment."""
    module = modules.get("structlog.contextvars")
    if module is None:
        return ()
    # structlog's own list of its variables. What it offers instead, `get_contextvars`, looks at all
    # variables of the program: 1 microsecond where there are 15 others, against 0.1.
    variables = getattr(module, "_CONTEXT_VARS", None)
    if variables is None:
        return tuple((name, _kept(value)) for name, value in module.get_contextvars().items())
    if not variables:
        return ()
    found: Bound = ()
    # A copy, since another thread may be binding a new one. To list the items would make tuples, and with them
    # room for a collection, in which that thread may go on.
    for name, variable in variables.copy().items():
        value = variable.get(...)
        if value is not ...:
            found += ((name.removeprefix(_PREFIX), value if type(value) in _PLAIN else _kept(value)),)
    return found


def _kept(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    for base, plain in _PLAIN_PARTS:  # text of a web framework, say, or a number with a name
        if isinstance(value, base):
            return plain(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return value if name in _PLAIN_NAMES else f"<{name}>"
