"""What the guard said of a leg, said once for each line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stress.report.source import LegResult

_MOST_SHOWN = 30


@dataclass(frozen=True)
class Notice:
    """Something that the guard said, and how often.

    Attributes:
        opened_at: The opening line that it named; empty if it named none.
        how: `warning`, or the name of the event.
        times: How often it was said.
        text: What it said first.
    """

    opened_at: str
    how: str
    times: int
    text: str


@dataclass(frozen=True)
class Notices:
    """Everything that the guard said of a leg.

    Attributes:
        shown: What is shown, warnings first.
        left_out: How many more there are.
    """

    shown: tuple[Notice, ...]
    left_out: int


def notices_of(result: LegResult) -> Notices:
    """Group what the guard said of a leg by line and by how it was said."""
    found: dict[tuple[str, str], Notice] = {}
    for leak in result.leaks:
        notice = _notice(leak)
        key = (notice.opened_at, notice.how)
        earlier = found.get(key, Notice(*key, 0, notice.text))
        found[key] = Notice(*key, earlier.times + notice.times, earlier.text)
    told = {notice.opened_at for notice in found.values()}
    bare = [Notice(line, "warning", 1, "") for line in result.named if line not in told]
    ordered = sorted([*found.values(), *bare], key=lambda notice: notice.how != "warning")
    return Notices(tuple(ordered[:_MOST_SHOWN]), max(0, len(ordered) - _MOST_SHOWN))


def _notice(leak: dict[str, Any]) -> Notice:
    text = str(leak.get("text", ""))
    how = "warning" if leak.get("source") == "warning" else text.partition(" ")[0] or "event"
    times = leak.get("reports", 1)
    return Notice(str(leak.get("opened_at") or ""), how, times if isinstance(times, int) else 1, text)
