"""Events: what saferocks tells the logs of the program that uses it.

Events go to structlog where the program has configured it, otherwise to the standard library's
logger `saferocks`; never to stdout. saferocks configures neither.

| event | level | when |
|---|---|---|
| `saferocks.handle_leaked` | warning | a handle was collected while open, or was open at exit |
| `saferocks.handle_outlived_database` | warning | a handle was still open when its database closed |
| `saferocks.handle_unscoped` | warning | a handle was used without `with`, once a line |
| `saferocks.handle_overdue` | warning | a handle was open for longer than its `warn_after`, once a term |
| `saferocks.handle_returned` | warning | a handle that was overdue has been released: takes that back |
| `saferocks.handle_expired` | warning | a handle was open for longer than its `expire_after`, and was released |
| `saferocks.database_opened` | debug | |
| `saferocks.database_closed` | debug | |
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Any

from saferocks._process import forking, see

_logger = logging.getLogger("saferocks")

# Events found where nothing may be logged: a finalizer can run while its own thread holds a
# handler's lock. `deque.append` is atomic; `drain` is called from ordinary code.
pending: deque[tuple[str, dict[str, Any]]] = deque()


def defer(event: str, **fields: Any) -> None:
    """Queue an event from a finalizer; takes no lock and never blocks."""
    pending.append((event, fields))


def drain() -> None:
    """Log what finalizers have queued, those of this process."""
    if forking:
        see()
    while pending:
        try:
            event, fields = pending.popleft()
        except IndexError:  # another thread took it
            return
        emit(logging.WARNING, event, **fields)


def emit(level: int, event: str, **fields: Any) -> None:
    """Log one event.

    Args:
        level: A level of the standard library's logging.
        event: The event's name, such as `saferocks.handle_leaked`.
        **fields: What belongs to it; values are strings, numbers or None.
    """
    # A program that has configured structlog has imported it; importing it here would cost
    # every other program its import time.
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        structlog.get_logger("saferocks").log(level, event, **fields)
    elif _logger.isEnabledFor(level):
        details = " ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None)
        _logger.log(level, "%s %s", event, details, extra={"saferocks": fields})
