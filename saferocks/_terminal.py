"""What the `saferocks` command writes: tables with rich on a terminal, plain columns anywhere else.

rich is wanted for looks only. Without it, and in a pipe, there is plain text, complete and as wide as it
has to be. rich itself keeps to what the terminal can show.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def is_rich(stream: TextIO) -> bool:
    """Tell whether a stream can show more than plain lines, and rich is here to do so."""
    return stream.isatty() and find_spec("rich") is not None


#: Writes what an encoding lacks as `\u00e9`, never as `\xe9`, which in a key stands for that byte.
_ESCAPING = "saferocks.escaping"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    numbers = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}" for number in numbers), error.end  # noqa: PLR2004 - the widths of escapes


codecs.register_error(_ESCAPING, _escaped)


def prepare_streams() -> None:
    """Let no stream that the caller has closed, and no character that the terminal's encoding lacks, end the command.

    What is written to a closed stream goes nowhere; the exit status still tells. A file that is opened later
    must not become stdout or stderr either.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPING)


def _nowhere() -> TextIO:
    return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def say(text: str = "") -> None:
    """Write a line; all that came from outside is printable by now."""
    sys.stdout.write(f"{text}\n")


def heading(text: str) -> None:
    """Write a line that begins a part."""
    if is_rich(sys.stdout):
        _console(sys.stdout).print(text, style="bold")
    else:
        say(text)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; columns whose every cell is a number or a size are set to the right."""
    if not rows:
        return
    right = [all(row[at][:1].isdigit() or row[at] == "-" for row in rows) for at in range(len(headers))]
    if is_rich(sys.stdout):
        _rich_table(headers, rows, right)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        cells = zip(row, widths, right, strict=True)
        say("  " + "  ".join(cell.rjust(width) if at else cell.ljust(width) for cell, width, at in cells).rstrip())


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 0, 0, 2), header_style="underline")
    for header, at_right in zip(headers, right, strict=True):
        drawn.add_column(Text(header), justify="right" if at_right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    _console(sys.stdout).print(drawn)


def verdict(level: str, text: str) -> None:
    """Write a line that says `ok`, `note` or `problem`, and of what."""
    if is_rich(sys.stdout):
        from rich.text import Text

        _console(sys.stdout).print(Text.assemble((f"{level:8}", _STYLES[level]), text), soft_wrap=True)
    else:
        say(f"{level:8}{text}")


def _console(stream: TextIO) -> Any:
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far a long work has come, where that is a terminal; it is gone at the end.

    Gives a function to call with how much is done by now.
    """
    if not is_rich(sys.stderr):
        yield lambda done: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    sys.stdout.flush()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(title, total=max(total, 1))
        yield lambda done: bar.update(task, completed=min(done, total))


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(number: int | None) -> str:
    """Write a number of bytes as people do; `-` if it is not known."""
    if number is None:
        return "-"
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - binary units
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
