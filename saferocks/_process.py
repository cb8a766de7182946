"""Which process this is: the one that opened the handles it finds, or a child that was forked from it (D14).

A child learns that from the hook that `_fork` registers. Before that hook Python clears what the other
threads of the parent had, and runs whatever is in it: a generator that such a thread had suspended
leaves its `with` blocks there and runs its `finally`. So while a thread forks, handles are reached
by slow ways only, which ask `see` first; at all other times `forking` is empty, and nobody asks.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: The threads that are forking at this moment, with a number for each fork. A child finds itself there until it has
#: dealt with everything that it has inherited.
forking: dict[tuple[int, int], None] = {}
#: The process whose handles these are.
_own = os.getpid()
#: What makes inherited handles dead ones, see `_fork`.
_adopters: list[Callable[[], None]] = []


def is_inherited() -> bool:
    """Tell whether this is a forked child that has not yet been told so: all that it finds is its parent's."""
    return os.getpid() != _own


def see() -> None:
    """Make the handles that this process has inherited dead ones, if it has not been told yet; safe in finalizers."""
    if is_inherited():
        for adopt in _adopters:
            adopt()


def forks_unseen() -> bool:
    """Tell whether this process is to be forked by a program that does not tell Python of it.

    uWSGI loads a program, and then forks its workers in C. Unless it is told to, it calls none of Python's hooks
    for forks, so the workers would use their parent's handles as their own.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # which is there in a server alone: it is no file
    opt = getattr(uwsgi, "opt", None)
    if not isinstance(opt, dict) or opt.get("py-call-osafterfork") in (True, b"true", b"1"):
        return False
    master = uwsgi.masterpid()  # 0 where there is none; mules and spoolers have it too, and are its children
    return bool(master == os.getpid() if master else uwsgi.numproc > 1 and uwsgi.worker_id() == 0)


def when_forked(adopt: Callable[[], None]) -> None:
    """Have a function called in a forked child, once at the least, before anything is done with a handle."""
    _adopters.append(adopt)


def adopted() -> None:
    """Note, in a forked child, that all is done: what it opens from now on is its own."""
    global _own  # noqa: PLW0603 - once in each process
    forking.clear()
    _own = os.getpid()
