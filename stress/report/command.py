"""`python -m stress report RUN.json`: the page of a run that has been."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stress.report.page import page
from stress.report.source import read_run
from stress.runfile import RunFileError
from stress.terminal import say

if TYPE_CHECKING:
    import argparse

_BAD_USAGE = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report` to its parser."""
    parser.add_argument("file", metavar="RUN.json", help="the record of a run")
    parser.add_argument("--output", metavar="FILE", help="where the page goes (default: report.html beside RUN.json)")


def run(options: argparse.Namespace) -> int:
    """Write the page, say where it is, and return the exit status."""
    try:
        say(write_report(options.file, options.output))
    except RunFileError as error:
        return _refused(str(error))
    except OSError as error:
        why = error.strerror or error
        where = page_beside(options.file) if options.output is None else options.output
        return _refused(f"cannot write {where!r}: {why}; give --output a file that can be written")
    return 0


def _refused(why: str) -> int:
    say(f"python -m stress report: {why}", sys.stderr)
    return _BAD_USAGE


def page_beside(run_file: str) -> str:
    """Return where the page of a run is by default."""
    return os.path.join(os.path.dirname(run_file), "report.html")


def write_report(run_file: str, output: str | None = None) -> str:
    """Write the page of a run; an older page is replaced as a whole, or left as it is.

    Args:
        run_file: The path of its `run.json`.
        output: Where the page goes; beside the record by default.

    Returns:
        The path of the page.

    Raises:
        RunFileError: If there is no such run, or none that can be read.
        OSError: If the page cannot be written.
    """
    content = page(read_run(run_file))
    target = page_beside(run_file) if output is None else output
    _check(target, run_file)
    _replace(os.path.realpath(target), content)
    return target


def _check(target: str, run_file: str) -> None:
    """Refuse to put the page in the place of the record, of a directory or of a device."""
    if not os.path.exists(target):
        return
    if not os.path.isfile(target):
        raise FileExistsError(0, "it is no regular file")
    if os.path.samefile(target, run_file):
        raise FileExistsError(0, "it is the record itself")


def _replace(target: str, content: str) -> None:
    unfinished = f"{target}.{os.getpid()}.new"
    try:
        # a lone surrogate, from a path that is no text, is shown and does not keep the page from being written
        with open(unfinished, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(content)
        os.replace(unfinished, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
