"""Reads a `run.json` back, and refuses in one line what is none."""

from __future__ import annotations

import json
import os
from typing import Any

#: The version of `run.json`; it goes up whenever a reader of the old one would be misled.
FORMAT = 1


class RunFileError(ValueError):
    """A file that was to be a `run.json` and is none; the text is one line that says what would be right."""


def load_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a `run.json`.

    Args:
        path: The file, or a path to it as it was printed.

    Returns:
        Its content; docs/stress.md names the fields.

    Raises:
        RunFileError: If it is missing, a directory, cut off, not the record of a run, or of another version.
    """
    name = os.fspath(path)
    content = _parsed(name, _read(name))
    if not isinstance(content, dict) or "results" not in content or "command" not in content:
        raise RunFileError(f"{name!r} is not the record of a run; give the run.json that a run has printed")
    if content.get("format") != FORMAT:
        found = repr(content["format"]) if "format" in content else "none"
        raise RunFileError(
            f"{name!r} has format {found}, and this version reads {FORMAT}; run again: {_replay(content)}"
        )
    return content


def _read(name: str) -> str:
    if os.path.isdir(name):
        raise RunFileError(f"{name!r} is a directory; give the run.json in it")
    try:
        with open(name, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise RunFileError(f"there is no file {name!r}; give the run.json that a run has printed") from None
    except UnicodeDecodeError:
        raise RunFileError(f"{name!r} is not text; give the run.json that a run has printed") from None
    except OSError as error:
        raise RunFileError(
            f"cannot read {name!r}: {error.strerror or error}; give a run.json that can be read"
        ) from None


def _parsed(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        started = text.lstrip().startswith("{")
        why = "cut off or damaged" if started else "not JSON"
        raise RunFileError(f"{name!r} is {why}; give a run.json as a run has left it") from None


def _replay(content: dict[str, Any]) -> str:
    command = content["command"]
    return command if isinstance(command, str) else "python -m stress quick"
