"""The kinds of arguments, each refused in a line that says what would be right."""

from __future__ import annotations

import argparse
import math
import re

from stress.scenario import all_legs, all_scenarios

_PORTS = 1 << 16
_MOST_DIGITS = 18
#: Longer ones are no lengths of time: they become infinite when they are reckoned with.
_LONGEST = 1e15


def _positive(text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; give a positive number of {unit}")
    return number


def seconds(text: str) -> float:
    """Return a positive, finite number of seconds."""
    return _positive(text, "seconds")


def hours(text: str) -> float:
    """Return a positive, finite number of hours."""
    return _positive(text, "hours")


def seed(text: str) -> int:
    """Return a whole number, 0 or more."""
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number, 0 or more, of 18 digits at most")
    return int(text)


def jobs(text: str) -> int:
    """Return a whole number, 1 or more."""
    return _count(text, "legs at once")


def rounds(text: str) -> int:
    """Return a whole number, 1 or more."""
    return _count(text, "rounds")


def rounds_at_once(text: str) -> int:
    """Return a whole number, 1 or more."""
    return _count(text, "rounds at once")


def _count(text: str, what: str) -> int:
    if not _is_whole(text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}; give a whole number, 1 or more")
    return int(text)


def _is_whole(text: str) -> bool:
    """Tell whether it is a whole number, and not one that nobody can count to."""
    return text.isdecimal() and text.isascii() and len(text) <= _MOST_DIGITS


def scheduler(text: str) -> str:
    """Return the address of a scheduler."""
    found = re.fullmatch(r"(?:tcp|tls)://(?:[^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", text, re.ASCII)
    if found is None or not 0 < int(found[1]) < _PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a scheduler; give it as tcp://host:8786")
    return text


def scenario(text: str) -> str:
    """Return the name of a scenario that there is."""
    names = all_scenarios()
    if text not in names:
        raise argparse.ArgumentTypeError(f"there is no scenario {text!r}; there are {', '.join(names)}")
    return text


def leg(text: str) -> str:
    """Return the name of a leg that some scenario has."""
    if text not in all_legs():
        raise argparse.ArgumentTypeError(f"there is no leg {text!r}; there are {', '.join(all_legs())}")
    return text
