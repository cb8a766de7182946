"""What signal handlers raise: Ctrl-C, or an error of the program, which may be of any type, an `OSError` among them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from saferocks.errors import EngineError

if TYPE_CHECKING:
    from types import TracebackType

_PACKAGE = __file__.rpartition("_interrupts")[0]


def foreign_traceback(error: BaseException) -> TracebackType | None:
    """Return the part of an error's traceback that lies below this package's own frames.

    Native code leaves no frame there; a caller's `loads` or `dumps` does, and so does a signal handler.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        traceback = traceback.tb_next
    return traceback


def is_interrupt(error: BaseException, path: str | None = None) -> bool:
    """Tell whether an error may come from a signal handler: Ctrl-C, or what a handler of the program has raised.

    That has nothing to do with what it comes out of, which may be anything, and half done. The frame of a handler
    is not of this package; where nothing of the caller's is called, it can be nothing else's. RocksDB's own errors are
    none, wherever they come from.

    Args:
        error: The error.
        path: The file or directory that is being looked at. An error of the system that names it, or a file in it, is
            none: what watches a program may have put a function of its own in place of `open`.
    """
    if isinstance(error, EngineError) or (path is not None and _names(error, path)):
        return False
    return not isinstance(error, Exception) or foreign_traceback(error) is not None


def _names(error: BaseException, path: str) -> bool:
    name = error.filename if isinstance(error, OSError) else None
    return isinstance(name, str) and (name == path or name.startswith(os.path.join(path, "")))


class passing_over(contextlib.suppress):  # noqa: N801 - used as `contextlib.suppress` is
    """Suppress errors of some types, as `contextlib.suppress` does, but for interrupts.

    Args:
        kinds: The types.
        path: The file or directory that is being looked at; see `is_interrupt`.
    """

    def __init__(self, *kinds: type[BaseException], path: str) -> None:
        super().__init__(*kinds)
        self._path = path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Suppress the error if it is of one of the types, and no interrupt."""
        if error is None or is_interrupt(error, self._path):
            return False
        return super().__exit__(kind, error, traceback)
