"""The OPTIONS file that RocksDB keeps beside a database: what the last to write it had in force."""

from __future__ import annotations

import os
import re

#: RocksDB writes so, in names too, what would mean something in the file.
_ESCAPE = re.compile(r"\\(.)")
_SECTION = re.compile(r'^\[([\w/]+)(?: "(.*)")?\]$')

#: Sections by kind (`DBOptions`, `CFOptions`, `TableOptions/BlockBasedTable`) and column family ("" for none).
Sections = dict[tuple[str, str], dict[str, str]]


def latest_name(names: list[str]) -> str | None:
    """Return the name of the newest OPTIONS file among the names of a directory."""
    found = [name for name in names if name.startswith("OPTIONS-") and name[8:].isdigit()]
    return max(found, key=lambda name: int(name[8:]), default=None)


def read_options_file(directory: str) -> Sections:
    """Read the newest OPTIONS file; empty where there is none.

    Raises:
        OSError: If it cannot be read.
    """
    name = latest_name(os.listdir(directory))
    while name is not None:
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                return _parsed(file.read())
        except FileNotFoundError:  # unless a writer has put a newer one in its place
            gone, name = name, latest_name(os.listdir(directory))
            if name == gone:
                raise
    return {}


def _meant(found: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(found[1], found[1])


def _parsed(text: str) -> Sections:
    sections: Sections = {}
    section: dict[str, str] = {}
    for line in map(str.strip, text.split("\n")):
        found = _SECTION.match(line)
        if found:
            section = sections.setdefault((found[1], _ESCAPE.sub(_meant, found[2] or "")), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section[name] = value
    return sections
