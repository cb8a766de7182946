"""Reads back what a leg has streamed to its file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

_TAIL_BYTES = 8192


@dataclass(frozen=True)
class LegData:
    """Everything a leg has reported.

    Attributes:
        series: The samples, by signal; `time` is one of them.
        leaks: What the guard said, in order.
        table: The table that the leg has made, if any: its `columns` and `rows`.
    """

    series: dict[str, list[float]]
    leaks: tuple[dict[str, Any], ...]
    table: dict[str, Any] | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The opening lines that the guard's warnings named, each once."""
        lines = (leak["opened_at"] for leak in self.leaks if leak["source"] == "warning")
        return tuple(dict.fromkeys(lines))


def read_leg(file: str) -> LegData:
    """Read the file of a leg; one that never started has none, and no samples."""
    samples: list[dict[str, float]] = []
    leaks: list[dict[str, Any]] = []
    table: dict[str, Any] | None = None
    for content in _lines(file):
        if "sample" in content:
            samples.append(content["sample"])
        elif "table" in content:
            table = content["table"]
        else:
            leaks.append(content["leak"])
    names = samples[0] if samples else {}
    series = {name: [sample.get(name, float("nan")) for sample in samples] for name in names}
    return LegData(series, tuple(leaks), table)


def _lines(file: str) -> list[dict[str, Any]]:
    if not os.path.exists(file):
        return []
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def latest_sample(file: str) -> dict[str, float]:
    """Return the last sample in a file that is being written, or nothing if there is none yet."""
    if not os.path.exists(file):
        return {}
    with open(file, "rb") as lines:
        lines.seek(max(0, os.path.getsize(file) - _TAIL_BYTES))
        tail = lines.read().split(b"\n")[:-1]
    for line in reversed(tail):
        if line.startswith(b'{"sample"'):
            sample: dict[str, float] = json.loads(line)["sample"]
            return sample
    return {}
