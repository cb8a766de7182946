"""Ctrl-C, a polite kill and a terminal that is closed, noticed at a moment of our choosing.

A KeyboardInterrupt in the midst of anything could leave a leg running or a file half written. So
the signals only set a flag here, which whoever waits for legs looks at; the second and any later
one find it set. A shell that starts us in the background has us ignore Ctrl-C; here we do not.
What `nohup` has us ignore, we ignore.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noticed() -> Iterator[threading.Event]:
    """Yield a flag that SIGINT, SIGTERM and SIGHUP set, for the length of a block.

    Outside of the main thread, where Python lets nobody handle signals, nothing sets it.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def notice(_number: int, _frame: Any) -> None:
        flag.set()

    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, notice) for number in _SIGNALS if number not in ignored}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            # None: set by C code, which Python cannot give back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
