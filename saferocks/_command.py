"""The `saferocks` command: looks at a database on disk and never changes a byte of it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from saferocks import _limits, _terminal
from saferocks._text import printable
from saferocks.errors import (
    BusyError,
    ColumnFamilyNotFoundError,
    EngineError,
    IOFailedError,
    NotSupportedError,
    SaferocksError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOOD, BAD, USAGE = 0, 1, 2
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as a shell has it: 128 and the number of the signal

_EXIT = (
    "Reads what is on disk at this moment, also while another process writes, and never changes a byte of it. "
    "Exit status: 0 all well, 1 damage or something to do, 2 bad usage or no database."
)


class UsageError(Exception):
    """What was asked for makes no sense."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="saferocks", description="Look at a RocksDB database on disk.", epilog=_EXIT)
    commands = parser.add_subparsers(dest="command", metavar="inspect | scan | doctor | verify")
    inspect = _add(commands, "inspect", "what is in it: column families, options, levels, sizes, properties")
    inspect.add_argument("--options", action="store_true", help="all options in force, not only those that matter most")
    _add_scan_options(_add(commands, "scan", "its rows, one a line"))
    _add(commands, "doctor", "what is wrong with it, who has it open, and what to do")
    _add(commands, "verify", "read every row of every column family and check every checksum on the way")
    return parser


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"Show {what}.", epilog=_EXIT)
    if name == "verify":
        parser.description = f"{what[0].upper()}{what[1:]}."
    parser.add_argument("path", help="the directory of the database")
    parser.add_argument(
        "--db-path", metavar="DIR", action="append", default=[], help="another directory with files of it; repeatable"
    )
    return parser


def _add_scan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--column-family", metavar="NAME", help="which column family (default: default)")
    parser.add_argument("--prefix", metavar="KEY", help=r"only keys that start with it; \xNN stands for a byte")
    parser.add_argument("--from", metavar="KEY", dest="start", help="where to begin, inclusive; written likewise")
    parser.add_argument(
        "--key-type",
        choices=("bytes", "str", "int", "float", "bool"),
        help="what --prefix and --from are in a typed database (default: str)",
    )
    parser.add_argument("--limit", metavar="N", type=_positive, help="at most so many rows")
    parser.add_argument("--reverse", action="store_true", help="from the last key to the first")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--damaged", action="store_true", help="what can be read, also if files are missing or damaged")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return min(int(text), sys.maxsize)


def _carry_out(options: argparse.Namespace) -> int:
    _check_system()
    run = _load(options.command)
    from saferocks._shadow import check_database

    options.path = check_database(options.path)
    for folder in options.db_path:
        if not os.path.isdir(folder):
            raise UsageError(f"--db-path {printable(folder)!r} is no directory")
    options.db_path = [os.path.abspath(folder) for folder in options.db_path]
    _limits.allow_many_files()
    return run(options)


def _load(command: str) -> Callable[[argparse.Namespace], int]:
    """Import a command, which loads RocksDB: only now, so that `--help` and mistakes cost nothing."""
    try:
        if command == "scan":
            from saferocks._command_scan import run
        elif command == "inspect":
            from saferocks._command_inspect import run
        elif command == "doctor":
            from saferocks._command_doctor import run
        else:
            from saferocks._command_verify import run
    except ValueError as error:  # a bad SAFEROCKS_POLICY or SAFEROCKS_TRACE
        raise UsageError(str(error)) from error
    return run


def _check_system() -> None:
    """Refuse a system on which nothing can be read without a trace: it takes links that anybody may make.

    Raises:
        UsageError: On Windows, where making one is a privilege.
    """
    if not _limits.are_known():
        raise UsageError(
            "there is no such command on Windows, where a database cannot be read without changing it; "
            "make a checkpoint (db.checkpoint()), copy it to a Linux or macOS machine and look at it there"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Returns:
        0 if all is well, 1 for damage or something to do, 2 for bad usage, 130 after Ctrl-C and
        141 when whoever reads the output has gone.
    """
    _terminal.prepare_streams()
    signal.signal(signal.SIGTERM, _terminated)
    hangup = getattr(signal, "SIGHUP", None)  # which Windows lacks
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # as under nohup
        signal.signal(hangup, _terminated)
    name = "saferocks"
    try:
        options = _parser().parse_args(arguments)
        if options.command is None:
            raise UsageError("which command? give inspect, scan, doctor or verify, each with a path")
        name = f"saferocks {options.command}"
        status = _carry_out(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        _forget_stdout()
        return _INTERRUPTED
    except (UsageError, SaferocksError, OSError, ValueError, TypeError) as error:
        return _failed(name, error)
    return status


def _failed(name: str, error: Exception) -> int:
    """Say in one line what went wrong; damage is a finding, anything else a mistake in asking."""
    try:
        sys.stdout.flush()  # first what has been found so far
    except OSError:
        _forget_stdout()
    known = _unknown_family(error) or str(error)
    text = known.splitlines()[0] if known else type(error).__name__
    if "Too many open files" in text:
        text = f"{text}; let it open more (ulimit -n)"
    with suppress(OSError):  # nobody reads it: the status still tells
        sys.stderr.write(f"{name}: {_unescaped(printable(text))}\n")
    is_finding = isinstance(error, EngineError) and not _is_mistake(error)
    return BAD if is_finding else USAGE


def _unescaped(text: str) -> str:
    """Undo the doubling of backslashes: the text is our own, and names are escaped in it already."""
    return text.replace("\\\\", "\\")


def _is_mistake(error: EngineError) -> bool:
    is_named = isinstance(error, (IOFailedError, ColumnFamilyNotFoundError, BusyError, NotSupportedError))
    return is_named or "Too many open files" in str(error)


def _unknown_family(error: Exception) -> str | None:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else None


def _terminated(number: int, frame: object) -> NoReturn:
    """End as after Ctrl-C, so that nothing temporary stays behind."""
    raise SystemExit(128 + number)


def _forget_stdout() -> None:
    """Let Python's last flush write to nowhere, which cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
