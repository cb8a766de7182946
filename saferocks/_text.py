"""Bytes and text that may hold anything, written so that a terminal shows them and nothing happens.

What is printable stays as it is. Control characters, which a terminal would obey, characters that turn
the direction of writing, and bytes that are no text become escapes, and so does the backslash itself.
What is written so can be read back.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEFT_OUT = "..."
_ESCAPE = re.compile(r"\\(?:([\\\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|)")


def printable(text: str) -> str:
    r"""Write text in printable characters: `\x1b` for an escape, `\\` for a backslash.

    Example:
        >>> print(printable("a\x1b[31m"))
        a\x1b[31m
    """
    return text.translate(_ESCAPED)


def printable_path(text: str) -> str:
    r"""Write a path, or a line of a file, in printable characters; a `\` that parts directories stays one.

    Example:
        >>> print(printable_path("jobs\x1b.py:17"))
        jobs\x1b.py:17
    """
    return printable(text).replace("\\\\", "\\") if os.sep == "\\" else printable(text)


def clipped(text: str, most: int) -> str:
    """Leave the middle out of a text that has more than so many characters: its two ends tell the most.

    Example:
        >>> clipped("one of many requests", 11)
        'one ...ests'
    """
    if len(text) <= most:
        return text
    half = (most - len(_LEFT_OUT)) // 2
    return f"{text[:half]}{_LEFT_OUT}{text[-half:]}"


def several(count: int, one: str, more: str | None = None) -> str:
    """Write a number of things.

    Args:
        count: How many.
        one: The word for one of them.
        more: The word for more, or none; with an s at the end if left out.

    Example:
        >>> several(1, "SST file"), several(2, "SST file"), several(0, "column family", "column families")
        ('1 SST file', '2 SST files', '0 column families')
    """
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def _shown(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter.isprintable():
        return letter
    number = ord(letter)
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - the widths of escapes


def printable_bytes(data: bytes) -> str:
    r"""Write bytes as the text that they are in UTF-8, and those that are none as `\xNN`.

    Example:
        >>> print(printable_bytes(b"caf\xc3\xa9 \xff"))
        café \xff
    """
    return data.decode("utf-8", "surrogateescape").translate(_ESCAPED_BYTES)


def _shown_of_bytes(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


class _Table(dict[int, str]):
    """How each character is written, found out when it first comes: a value may have millions of them."""

    def __init__(self, write: Callable[[str], str]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, number: int) -> str:
        self[number] = self._write(chr(number))
        return self[number]


_ESCAPED, _ESCAPED_BYTES = _Table(_shown), _Table(_shown_of_bytes)


def parse(text: str) -> str:
    r"""Read what `printable` has written.

    Raises:
        ValueError: If a backslash begins no escape.
    """
    return _ESCAPE.sub(_meant, text)


def _meant(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    digits = found[2] or found[3] or found[4]
    if digits is None:
        raise ValueError(f"{found.string!r} has a backslash that begins no escape; write \\\\ for a backslash")
    return chr(int(digits, 16))


def parse_bytes(text: str) -> bytes:
    r"""Read what `printable_bytes` has written.

    Raises:
        ValueError: If a backslash begins no escape, or there is what is no character.
    """
    parts, end = [], 0
    for found in _ESCAPE.finditer(text):
        parts.append(text[end : found.start()].encode())
        letter = _meant(found)
        parts.append(bytes([ord(letter)]) if found[2] else letter.encode())
        end = found.end()
    return b"".join((*parts, text[end:].encode()))
