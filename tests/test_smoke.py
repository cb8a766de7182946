"""The README's promises, in one test each."""

from __future__ import annotations

import saferocks


def test_what_is_written_is_read(path: str) -> None:
    """A value written in one opening is there in the next."""
    with saferocks.open(path) as db:
        db[b"k"] = b"v"
    with saferocks.open(path) as db:
        assert db[b"k"] == b"v"
